#![expect(clippy::unwrap_used, reason = "tests")]

use super::*;
use proptest::prelude::*;

const ID: &str = "3fa1c6d2b7e84f0a9c5d1e2f3a4b5c6d7e8f90123456789abcdef0123456789a";
const ID2: &str = "0b8e6a2c4d1f35978e6a2c4d1f3597b08e6a2c4d1f35970b8e6a2c4d1f3597aa";
const UID: &str = "2f6b1c3a-98d4-4e57-a6c0-1d2e3f4a5b6c";
const UID_: &str = "2f6b1c3a_98d4_4e57_a6c0_1d2e3f4a5b6c";

fn fill(template: &str) -> String {
    template.replace("ID2", ID2).replace("UID_", UID_).replace("UID", UID).replace("ID", ID)
}

#[test]
fn containers() {
    use Runtime::*;
    // (path, runtime, in a pod, the container's own cgroup)
    for (path, runtime, pod, root) in [
        ("/docker/ID", Docker, false, "/docker/ID"),
        ("/docker/ID/docker/ID2", Docker, false, "/docker/ID"),
        ("/docker/ID/init.scope", Docker, false, "/docker/ID"),
        ("/docker/ID/system.slice/cron.service", Docker, false, "/docker/ID"),
        ("/my/parent/ID", Docker, false, "/my/parent/ID"),
        ("/actions_job/ID", Docker, false, "/actions_job/ID"),
        ("/ecs/0123456789abcdef0123456789abcdef/ID", Docker, false, "/ecs/0123456789abcdef0123456789abcdef/ID"),
        ("/system.slice/docker.service/docker/ID", Docker, false, "/system.slice/docker.service/docker/ID"),
        ("/lxc/web/docker/ID", Docker, false, "/lxc/web/docker/ID"),
        ("/lxc.payload.web/docker/ID", Docker, false, "/lxc.payload.web/docker/ID"),
        ("/system.slice/docker-ID.scope", Docker, false, "/system.slice/docker-ID.scope"),
        ("/system.slice/docker-ID.scope/init.scope", Docker, false, "/system.slice/docker-ID.scope"),
        ("/system.slice:docker:ID", Docker, false, "/system.slice:docker:ID"),
        (
            "/user.slice/user-1000.slice/user@1000.service/user.slice/docker-ID.scope",
            Docker,
            false,
            "/user.slice/user-1000.slice/user@1000.service/user.slice/docker-ID.scope",
        ),
        ("/ID", Unknown, false, "/ID"),
        ("/k8s.io/ID", Containerd, false, "/k8s.io/ID"),
        ("/default/ID", Containerd, false, "/default/ID"),
        ("/system.slice/nerdctl-ID.scope", Containerd, false, "/system.slice/nerdctl-ID.scope"),
        ("/system.slice/cri-containerd-ID.scope", Containerd, false, "/system.slice/cri-containerd-ID.scope"),
        ("/kubepods/burstable/podUID/ID", Unknown, true, "/kubepods/burstable/podUID/ID"),
        ("/kubepods/podUID/ID", Unknown, true, "/kubepods/podUID/ID"),
        ("/kubepods/besteffort/podUID/ID/docker/ID2", Unknown, true, "/kubepods/besteffort/podUID/ID"),
        ("/kubepods/burstable/podUID/crio-ID", CriO, true, "/kubepods/burstable/podUID/crio-ID"),
        (
            "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podUID_.slice/cri-containerd-ID.scope",
            Containerd,
            true,
            "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podUID_.slice/cri-containerd-ID.scope",
        ),
        (
            "/kubepods.slice/kubepods-podUID_.slice/docker-ID.scope",
            Docker,
            true,
            "/kubepods.slice/kubepods-podUID_.slice/docker-ID.scope",
        ),
        (
            "/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-podUID_.slice/crio-ID.scope/container",
            CriO,
            true,
            "/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-podUID_.slice/crio-ID.scope",
        ),
        (
            "/system.slice/containerd.service/kubepods-burstable-podUID_.slice:cri-containerd:ID",
            Containerd,
            true,
            "/system.slice/containerd.service/kubepods-burstable-podUID_.slice:cri-containerd:ID",
        ),
        ("/machine.slice/libpod-ID.scope", Podman, false, "/machine.slice/libpod-ID.scope"),
        ("/machine.slice/libpod-ID.scope/container", Podman, false, "/machine.slice/libpod-ID.scope"),
        ("/libpod_parent/libpod-ID", Podman, false, "/libpod_parent/libpod-ID"),
        (
            "/user.slice/user-0.slice/run.service/libpod-payload-ID",
            Podman,
            false,
            "/user.slice/user-0.slice/run.service/libpod-payload-ID",
        ),
    ] {
        let path = fill(path);
        let got = parse(&path).unwrap_or_else(|| panic!("not seen: {path}"));
        assert_eq!(got.id, ID, "{path}");
        assert_eq!(got.runtime, runtime, "{path}");
        assert_eq!(got.pod_uid.as_deref(), pod.then_some(UID), "{path}");
        assert_eq!(got.root(&path), fill(root), "{path}");
        assert_eq!(got.is_nested(&path), fill(root) != path, "{path}");
    }
}

#[test]
fn a_static_pods_uid_has_no_dashes() {
    let path = format!("/kubepods/burstable/pod0123456789abcdef0123456789abcdef/{ID}");
    assert_eq!(parse(&path).unwrap().pod_uid.as_deref(), Some("0123456789abcdef0123456789abcdef"));
}

#[test]
fn not_containers() {
    for path in [
        "",
        "/",
        "/docker",
        "/init.scope",
        "/system.slice",
        "/system.slice/docker.service",
        "/system.slice/containerd.service",
        "/system.slice/ssh.service",
        "/system.slice/system-getty.slice/getty@tty1.service",
        "/user.slice/user-1000.slice/session-3.scope",
        "/user.slice/user-1000.slice/user@1000.service/app.slice/app-org.gnome.Terminal.slice/vte-spawn-0f7c2f6a-6c1e-4bb1-a7b7-31b1d1ddc7b8.scope",
        "/process_api/4e6664b45800904e49770663d0ca6a6e",
        "/name/4e6664b45800904e49770663d0ca6a6e",
        "/machine.slice/machine-qemu\\x2d1\\x2dweb.scope",
        "/machine.slice/libpod-conmon-ID.scope",
        "/system.slice/crio-conmon-ID.scope",
        "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podUID_.slice",
        "/kubepods/burstable/podUID",
        "/kubepods/burstable/podUID/crio-conmon-ID",
        "/docker/buildkit/k2x9w8q7z6y5v4u3t2s1r0qpo",
        "/system.slice/docker-0123456789ab.scope",
        "/system.slice/docker-volume-plugin.service",
        "/lxc/ID",
        "/docker/3FA1C6D2B7E84F0A9C5D1E2F3A4B5C6D7E8F90123456789ABCDEF0123456789A",
        "/docker/IDa",
        "/docker/xID",
    ] {
        assert_eq!(parse(&fill(path)), None, "{path}");
    }
}

proptest! {
    #[test]
    fn never_panics(path in "\\PC{0,300}") {
        if let Some(found) = parse(&path) {
            prop_assert!(is_id(&found.id));
        }
    }

    #[test]
    fn odd_mixtures_of_real_parts_never_panic(
        parts in prop::collection::vec(prop::sample::select(vec![
            "docker", "kubepods", "pod", "-pod", ".slice", ".scope", ":", "libpod-", "crio-", "é", "/", "//",
            "docker-", ID, UID_, "cri-containerd",
        ]), 0..12)
    ) {
        let path = parts.concat();
        if let Some(found) = parse(&path) {
            prop_assert!(found.root(&path).ends_with(&found.id) || found.root(&path).ends_with(".scope"));
        }
    }
}
