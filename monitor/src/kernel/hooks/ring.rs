//! What is seen of io_uring: its tracepoints, and the fields that the programs behind them look for in a request.

use super::Door;
use monitor_common::field::Field;

/// A request is taken in (the second name: before 6.4).
const TAKEN: &[&str] = &["io_uring_submit_req", "io_uring_submit_sqe"];
/// It is done.
const COMPLETED: &[&str] = &["io_uring_complete"];

/// An open, before it happens.
pub const OPEN_TAKEN: Door = Door::Ring(
    TAKEN,
    &[
        Field::RingTaken,
        Field::RingCompleted,
        Field::RequestOpcode,
        Field::RequestFlags,
        Field::RequestCommand,
        Field::OpenFolder,
        Field::OpenPath,
        Field::OpenFlags,
        Field::PathText,
    ],
);

/// The same when it is done.
pub const OPENED: Door = Door::Ring(
    COMPLETED,
    &[Field::RingCompleted, Field::RingResult, Field::RequestOpcode, Field::RequestCommand, Field::OpenSlot],
);

/// A rename or link, before it happens.
pub const NAME_TAKEN: Door = Door::Ring(
    TAKEN,
    &[
        Field::RingTaken,
        Field::RequestOpcode,
        Field::RequestCommand,
        Field::RenameNewFolder,
        Field::RenameNewPath,
        Field::LinkNewFolder,
        Field::LinkNewPath,
        Field::PathText,
    ],
);

/// A connection that was made.
pub const CONNECTED: Door =
    Door::Ring(COMPLETED, &[Field::RingCompleted, Field::RingResult, Field::RequestOpcode, Field::RequestFile]);

/// A removal or rename, before it happens.
pub const REMOVAL_TAKEN: Door = Door::Ring(
    TAKEN,
    &[
        Field::RingTaken,
        Field::RequestOpcode,
        Field::RequestCommand,
        Field::UnlinkFolder,
        Field::UnlinkPath,
        Field::RenameOldFolder,
        Field::RenameOldPath,
        Field::PathText,
    ],
);
