//! Writes msgpack to memory. All that is encoded comes in thousands of pieces of one to nine bytes
//! (markers, numbers, short texts), so that these cost little is most of what there is to win.

use std::io::{self, Write};

use rmp_serde::encode::Error;
use serde::Serialize;

/// Appends a value, its fields by position.
pub fn write(bytes: &mut Vec<u8>, value: &impl Serialize) -> Result<(), Error> {
    write_at_most(usize::MAX, bytes, value)
}

/// The same. What takes more than so many bytes is an error, and part of it is written.
pub fn write_at_most(
    most: usize,
    bytes: &mut Vec<u8>,
    value: &impl Serialize,
) -> Result<(), Error> {
    rmp_serde::encode::write(&mut Memory::up_to(most, bytes), value)
}

/// Appends a value, its fields by name.
pub fn write_named(bytes: &mut Vec<u8>, value: &impl Serialize) -> Result<(), Error> {
    rmp_serde::encode::write_named(&mut Memory::up_to(usize::MAX, bytes), value)
}

/// Memory that takes bytes up to a length.
struct Memory<'a> {
    bytes: &'a mut Vec<u8>,
    /// The length beyond which nothing is taken.
    end: usize,
}

impl<'a> Memory<'a> {
    fn up_to(most: usize, bytes: &'a mut Vec<u8>) -> Self {
        let end = bytes.len().saturating_add(most);
        Self { bytes, end }
    }
}

impl Write for Memory<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_all(bytes).map(|()| bytes.len())
    }

    #[inline(always)]
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.bytes.len() + bytes.len() > self.end {
            return Err(io::ErrorKind::WriteZero.into());
        }
        match bytes {
            // A marker: the compiler knows that it is one byte, if it sees this here.
            [byte] => self.bytes.push(*byte),
            bytes => self.bytes.extend_from_slice(bytes),
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
