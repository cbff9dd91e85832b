//! Shared code of the test subjects.
