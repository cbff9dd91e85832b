# The guest's own side of a boot: file systems, the cgroup layout that was asked for, then the job. Results go to the
# second serial port, so that kernel messages never cut them in two; the console is watched for what kernels print
# when they die.
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export PATH HOME=/root LANG=C.UTF-8
mount -t sysfs sysfs /sys
mount -t tmpfs -o mode=1777 tmpfs /tmp
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
ln -sf /proc/self/fd /dev/fd
mount -t securityfs securityfs /sys/kernel/security
mount -t tracefs tracefs /sys/kernel/tracing
mount -t bpf bpffs /sys/fs/bpf
stty -F /dev/ttyS1 raw 2>/dev/null
exec > /dev/ttyS1 2>&1 < /dev/null

. /guest/job

mount_v1() {
    mount -t tmpfs -o mode=755 tmpfs /sys/fs/cgroup
    # A newer kernel may be built without some of the old controllers; what is there is mounted.
    for controller in pids memory cpu,cpuacct cpu cpuset devices freezer blkio; do
        grep -q "cgroup_disable=$controller" /proc/cmdline && continue
        mkdir -p "/sys/fs/cgroup/$controller"
        mount -t cgroup -o "$controller" cgroup "/sys/fs/cgroup/$controller" 2>/dev/null ||
            rmdir "/sys/fs/cgroup/$controller"
    done
    mkdir -p /sys/fs/cgroup/systemd
    mount -t cgroup -o none,name=systemd cgroup /sys/fs/cgroup/systemd
}
case "$layout" in
v1) mount_v1 ;;
hybrid)
    mount_v1
    mkdir -p /sys/fs/cgroup/unified
    mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified
    ;;
v2) mount -t cgroup2 cgroup2 /sys/fs/cgroup ;;
esac
ip link set lo up
hostname guest
# As on a host, where a service manager has put its services into groups: the tests are no task of the root group.
for root in /sys/fs/cgroup /sys/fs/cgroup/*; do
    [ -e "$root/cgroup.procs" ] || continue
    mkdir -p "$root/init.scope"
    echo $$ > "$root/init.scope/cgroup.procs" 2>/dev/null
done

section() {
    echo "@section $1"
    shift
    started=$(cut -d' ' -f1 /proc/uptime)
    "$@"
    echo "@end $? $started $(cut -d' ' -f1 /proc/uptime)"
}
echo "@kernel $(uname -r)"
echo "@lsm $(cat /sys/kernel/security/lsm)"
cd /guest
job
echo "@finished"
# What was written leaves the port before the power goes.
sleep 0.3
echo o > /proc/sysrq-trigger
sleep 30
