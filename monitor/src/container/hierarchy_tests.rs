#![expect(clippy::unwrap_used, reason = "tests")]

use super::*;

const V1_CGROUPS: &str = "#subsys_name\thierarchy\tnum_cgroups\tenabled\n\
    cpuset\t3\t1\t1\ncpu\t1\t1\t1\nmemory\t4\t13\t1\nnet_cls\t0\t1\t1\npids\t8\t1\t1\n";
const V2_CGROUPS: &str = "#subsys_name\thierarchy\tnum_cgroups\tenabled\n\
    cpuset\t0\t91\t1\ncpu\t0\t91\t1\nmemory\t0\t91\t1\npids\t0\t91\t1\n";

const HYBRID: &str = "31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n\
    32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu\n\
    35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n\
    39 31 0:36 / /sys/fs/cgroup/pids rw,relatime - cgroup cgroup rw,pids\n\
    40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd\n\
    41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";

const V2: &str = "22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n\
    30 23 0:26 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime shared:9 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot\n\
    99 22 0:26 /system.slice/docker-x.scope /var/lib/x rw - cgroup2 cgroup2 rw\n";

#[test]
fn hybrid_uses_the_v1_pids_hierarchy() {
    let h = choose(HYBRID, V1_CGROUPS).unwrap();
    assert_eq!((h.id, h.controller.as_str()), (8, "pids"));
    assert_eq!(h.mount, Path::new("/sys/fs/cgroup/pids"));
    assert_eq!(unified(HYBRID).unwrap(), Path::new("/sys/fs/cgroup/unified"));
}

#[test]
fn v1_without_pids_falls_back_to_memory_then_cpu() {
    let without =
        |drop: &[&str]| HYBRID.lines().filter(|l| !drop.iter().any(|d| l.ends_with(d))).collect::<Vec<_>>().join("\n");
    let h = choose(&without(&["rw,pids"]), V1_CGROUPS).unwrap();
    assert_eq!((h.id, h.controller.as_str()), (4, "memory"));
    let h = choose(&without(&["rw,pids", "rw,memory"]), V1_CGROUPS).unwrap();
    assert_eq!((h.id, h.controller.as_str()), (1, "cpu"));
    assert_eq!(unified(&without(&["cgroup2 rw"])), None);
}

#[test]
fn a_joint_v1_mount_is_found_by_either_controller() {
    let info = "50 31 0:40 / /sys/fs/cgroup/cpu,cpuacct rw shared:15 - cgroup cgroup rw,cpu,cpuacct\n";
    let h = choose(info, V1_CGROUPS).unwrap();
    assert_eq!(h.mount, Path::new("/sys/fs/cgroup/cpu,cpuacct"));
}

#[test]
fn v2_uses_the_unified_hierarchy() {
    let h = choose(V2, V2_CGROUPS).unwrap();
    assert_eq!((h.id, h.controller.as_str()), (0, ""));
    assert_eq!(h.mount, Path::new("/sys/fs/cgroup"));
    assert_eq!(choose(V2, "").unwrap().id, 0, "kernels without /proc/cgroups");
}

#[test]
fn a_hybrid_host_whose_controllers_are_all_v2_uses_unified() {
    // systemd's "hybrid" with v1 only for name=systemd.
    let info = HYBRID.lines().filter(|l| l.contains("systemd") || l.contains("unified")).collect::<Vec<_>>().join("\n");
    let h = choose(&info, V2_CGROUPS).unwrap();
    assert_eq!(h.mount, Path::new("/sys/fs/cgroup/unified"));
}

#[test]
fn nothing_mounted() {
    assert_eq!(choose("22 1 254:0 / / rw - ext4 /dev/vda rw\n", V2_CGROUPS), None);
    assert_eq!(choose("garbage\n - \n", "garbage"), None);
}

#[test]
fn the_path_of_a_process() {
    let proc_cgroup = "9:name=systemd:/\n8:pids:/docker/abc\n4:memory:/x\n0::/a:b\n";
    let v1 = choose(HYBRID, V1_CGROUPS).unwrap();
    assert_eq!(path_of(proc_cgroup, &v1), Some("/docker/abc"));
    let v2 = choose(V2, V2_CGROUPS).unwrap();
    assert_eq!(path_of(proc_cgroup, &v2), Some("/a:b"));
    assert_eq!(path_of("0::/gone (deleted)\n", &v2), Some("/gone"));
}

#[test]
fn this_host_has_one() {
    let h = detect().unwrap();
    let own = std::fs::read_to_string("/proc/self/cgroup").unwrap();
    assert!(path_of(&own, &h).is_some());
}
