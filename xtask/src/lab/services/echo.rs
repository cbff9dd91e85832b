//! UDP echo.

/// Gives back what came.
#[expect(clippy::unnecessary_wraps, reason = "the signature every UDP service has")]
pub fn answer(datagram: &[u8]) -> Option<Vec<u8>> {
    Some(datagram.to_vec())
}
