//! Lines on standard error and standard output, written by a thread of their own.
//!
//! No other thread waits for it. A full disk, a closed pipe or a pipe that is not read only costs lines, which are
//! counted.

use std::io::{self, Write};
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use tracing_subscriber::fmt::MakeWriter;

/// The maximum number of lines that wait to be written.
const WAITING_LINES: usize = 4_096;

/// How long the process waits for the last lines before it exits.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// Accepts lines and writes them in the background.
#[derive(Clone)]
pub struct Lines {
    entries: SyncSender<Entry>,
}

enum Entry {
    Line(Vec<u8>),
    /// Dropped once everything before it has been written.
    Flush {
        _written: SyncSender<()>,
    },
}

impl Lines {
    /// Returns the lines of the log.
    pub(super) fn stderr() -> &'static Self {
        static LINES: OnceLock<Lines> = OnceLock::new();
        LINES.get_or_init(|| Self::to(io::stderr()))
    }

    /// Returns the lines that a service shows to people while it runs.
    pub fn stdout() -> &'static Self {
        static LINES: OnceLock<Lines> = OnceLock::new();
        LINES.get_or_init(|| Self::to(io::stdout()))
    }

    fn to(out: impl Write + Send + 'static) -> Self {
        let (entries, waiting) = sync_channel(WAITING_LINES);
        let started =
            std::thread::Builder::new().name("lines".to_owned()).spawn(move || write(&waiting, out));
        // If the thread could not be started, every line is lost and counted.
        drop(started);
        Self { entries }
    }

    /// Accepts a line, including its newline. It is lost if too many lines are waiting, or if it cannot be written.
    pub fn line(&self, line: impl Into<Vec<u8>>) {
        let line = line.into();
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) =
            self.entries.try_send(Entry::Line(line))
        {
            count_lost();
        }
    }

    /// Waits until everything is written, for at most one second.
    pub fn flush(&self) {
        let (written, end) = sync_channel(0);
        if self.entries.try_send(Entry::Flush { _written: written }).is_ok() {
            let _ = end.recv_timeout(FLUSH_TIMEOUT);
        }
    }
}

fn write(waiting: &Receiver<Entry>, mut out: impl Write) {
    for entry in waiting {
        if let Entry::Line(line) = entry
            && out.write_all(&line).is_err()
        {
            count_lost();
        }
    }
}

fn count_lost() {
    metrics::counter!(super::metric::LOG_LINES_LOST).increment(1);
}

/// Takes each write as one line, which is how the formatter writes. Never fails and never blocks.
impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.line(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Forwards what is written to it, and fails if its second field is true.
    struct Out(SyncSender<Vec<u8>>, bool);

    impl Write for Out {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            self.0.send(line.to_vec()).map_err(io::Error::other)?;
            if self.1 { Err(io::ErrorKind::StorageFull.into()) } else { Ok(line.len()) }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_are_written_in_their_order_and_a_flush_waits_for_them() {
        let (sender, written) = sync_channel(10);
        let lines = Lines::to(Out(sender, false));
        lines.line("one");
        lines.line("two");
        lines.flush();
        assert_eq!(written.try_iter().collect::<Vec<_>>(), [b"one", b"two"]);
    }

    #[test]
    fn a_writer_that_fails_or_blocks_costs_lines_and_harms_nobody() {
        let (sender, written) = sync_channel(10);
        let lines = Lines::to(Out(sender, true));
        lines.line("lost");
        lines.line("lost");
        lines.flush();
        assert_eq!(written.try_iter().count(), 2, "it continues after a failure");

        let (sender, _nobody_reads) = sync_channel(0);
        let lines = Lines::to(Out(sender, false));
        for _ in 0..3 * WAITING_LINES {
            lines.line("waiting");
        }
        lines.flush();
    }
}
