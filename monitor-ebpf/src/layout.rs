//! Every record in the object's type information, for the test that compares its layout with the
//! daemon's. Maps bring the types of their keys and values along by themselves; a record is only ever
//! written through a ring buffer's pointer, and LLVM leaves such types out.

use monitor_common::exec::{Again, Exec, Exit, Fork, Moved};
use monitor_common::file::Open;
use monitor_common::net::{Connect, Payload, UnixConnect, UnixPeer};
use monitor_common::own::Tamper;
use monitor_common::reach::Reach;
use monitor_common::state::CgroupChange;

/// Takes four bytes in the object: the members have no elements.
#[repr(C)]
struct Records {
    abi: u32,
    exec: [Exec; 0],
    fork: [Fork; 0],
    again: [Again; 0],
    exit: [Exit; 0],
    moved: [Moved; 0],
    open: [Open; 0],
    connect: [Connect; 0],
    payload: [Payload; 0],
    unix_connect: [UnixConnect; 0],
    unix_peer: [UnixPeer; 0],
    reach: [Reach; 0],
    cgroup: [CgroupChange; 0],
    tamper: [Tamper; 0],
}

#[unsafe(no_mangle)]
#[used]
static RECORDS: Records = Records {
    abi: monitor_common::ABI_VERSION as u32,
    exec: [],
    fork: [],
    again: [],
    exit: [],
    moved: [],
    open: [],
    connect: [],
    payload: [],
    unix_connect: [],
    unix_peer: [],
    reach: [],
    cgroup: [],
    tamper: [],
};
