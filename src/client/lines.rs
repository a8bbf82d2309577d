//! The lines of an answer that does not end.

use std::time::Duration;

use bytes::{Buf, BytesMut};
use reqwest::Response;
use tokio::time::timeout;

use super::error::root_cause;

/// No line is longer: the largest value is a document of 128 KiB.
const LINE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// An answer, cut into lines.
#[derive(Debug)]
pub(super) struct Lines {
    response: Response,
    buffer: BytesMut,
    /// So much of the buffer has no line's end.
    searched: usize,
    silence_max: Duration,
}

impl Lines {
    pub fn of(response: Response, silence_max: Duration) -> Self {
        Self { response, buffer: BytesMut::new(), searched: 0, silence_max }
    }

    /// The next line that is not empty; the error says how the stream ended. What comes after the
    /// last line's end is half a line and given to nobody.
    pub async fn next(&mut self) -> Result<String, String> {
        let silence_max = self.silence_max;
        match timeout(silence_max, self.read()).await {
            Ok(line) => line,
            Err(_) => {
                let span = humantime::format_duration(silence_max);
                Err(format!("the node sent nothing for {span}"))
            }
        }
    }

    async fn read(&mut self) -> Result<String, String> {
        loop {
            if let Some(line) = self.cut()? {
                return Ok(line);
            }
            match self.response.chunk().await {
                Ok(Some(chunk)) => self.buffer.extend_from_slice(&chunk),
                Ok(None) => return Err("the node ended the stream".into()),
                Err(e) => return Err(format!("the connection broke: {}", root_cause(&e))),
            }
        }
    }

    /// Takes the next line from the buffer, if a whole one is there.
    fn cut(&mut self) -> Result<Option<String>, String> {
        while let Some(at) = self.buffer[self.searched..].iter().position(|byte| *byte == b'\n') {
            let line = self.buffer.split_to(self.searched + at);
            self.buffer.advance(1);
            self.searched = 0;
            if !line.trim_ascii().is_empty() {
                let line = String::from_utf8(line.trim_ascii().to_vec());
                return line.map(Some).map_err(|_| "a line that is not UTF-8".into());
            }
        }
        self.searched = self.buffer.len();
        if self.searched > LINE_BYTES_MAX {
            return Err(format!("a line over the limit of {LINE_BYTES_MAX} bytes"));
        }
        Ok(None)
    }
}
