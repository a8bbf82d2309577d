//! The terminal: taken over, drawn on, read from, and given back as it was.

use std::io::{self, Read, Write};
use std::sync::{Arc, Once};

use parking_lot::Mutex;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use tokio::sync::mpsc;

/// What a terminal has that does not tell its size.
const WIDTH: u16 = 80;
const HEIGHT: u16 = 24;

/// Presses that wait to be looked at.
const KEYS_MAX: usize = 64;

/// The other screen, without a cursor, where a line that is too long goes on nowhere; and back.
const ENTER: &str = "\x1b[?1049h\x1b[?25l\x1b[?7l";
const LEAVE: &str = "\x1b[?7h\x1b[?25h\x1b[?1049l";

/// The settings of the terminal before it was taken over; none while it is not. A panic must find it.
static BEFORE: Mutex<Option<Arc<Termios>>> = Mutex::new(None);

/// The terminal is this program's until this is dropped, or the program panics.
pub(super) struct Screen(());

impl Screen {
    pub fn open() -> io::Result<Self> {
        let before = tcgetattr(io::stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        restore_in_panics();
        *BEFORE.lock() = Some(Arc::new(before));
        let screen = Self(());
        tcsetattr(io::stdin(), OptionalActions::Flush, &raw)?;
        write(ENTER)?;
        Ok(screen)
    }

    /// Draws the lines that there are for so many columns and rows. Fails where the terminal was given back,
    /// since another part of the program panicked.
    pub fn draw(&mut self, lines: impl FnOnce(usize, usize) -> Vec<String>) -> io::Result<()> {
        if BEFORE.lock().is_none() {
            return Err(io::Error::other("the terminal was given back after a panic"));
        }
        let (width, height) = size();
        let lines = lines(width, height);
        // All in one, so that nobody sees half of a picture.
        let mut text = String::from("\x1b[?2026h\x1b[H");
        for (index, line) in lines.iter().enumerate() {
            if index > 0 {
                text.push_str("\r\n");
            }
            text.push_str(line);
            text.push_str("\x1b[K");
        }
        text.push_str("\x1b[J\x1b[?2026l");
        write(&text)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        restore();
    }
}

/// Columns and rows.
fn size() -> (usize, usize) {
    let known = tcgetwinsize(io::stdout()).ok();
    let (width, height) = known.map_or((0, 0), |size| (size.ws_col, size.ws_row));
    let or = |value: u16, default: u16| usize::from(if value == 0 { default } else { value });
    (or(width, WIDTH), or(height, HEIGHT))
}

fn write(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// Gives the terminal back, once.
fn restore() {
    if let Some(before) = BEFORE.lock().take() {
        // A terminal that is gone needs nothing.
        let _ = write(LEAVE);
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &before);
    }
}

/// Who panics says so on the terminal as it was.
fn restore_in_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            restore();
            before(panic);
        }));
    });
}

/// What was pressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    Quit,
    Pause,
    Sort,
    OtherNode,
    NextPart,
    PreviousPart,
    Up,
    Down,
    PageUp,
    PageDown,
    Other,
}

impl Key {
    /// The first key in what a terminal sent, and how many bytes it has.
    fn first_in(bytes: &[u8]) -> (Self, usize) {
        match bytes {
            [0x1b, b'[' | b'O', b'A', ..] => (Self::Up, 3),
            [0x1b, b'[' | b'O', b'B', ..] => (Self::Down, 3),
            [0x1b, b'[' | b'O', b'C', ..] => (Self::NextPart, 3),
            [0x1b, b'[' | b'O', b'D', ..] => (Self::PreviousPart, 3),
            [0x1b, b'[', b'Z', ..] => (Self::PreviousPart, 3),
            [0x1b, b'[', b'5', b'~', ..] => (Self::PageUp, 4),
            [0x1b, b'[', b'6', b'~', ..] => (Self::PageDown, 4),
            [0x1b, ..] => (Self::Other, bytes.len()),
            // Ctrl-C and Ctrl-D: a raw terminal sends no signals.
            [b'q' | b'Q' | 0x03 | 0x04, ..] => (Self::Quit, 1),
            [b'p' | b' ', ..] => (Self::Pause, 1),
            [b's', ..] => (Self::Sort, 1),
            [b'n', ..] => (Self::OtherNode, 1),
            [b'\t', ..] => (Self::NextPart, 1),
            [b'k', ..] => (Self::Up, 1),
            [b'j', ..] => (Self::Down, 1),
            _ => (Self::Other, 1),
        }
    }
}

/// What is pressed from now on. The thread that reads ends with the process: nothing can wake it.
pub(super) fn keys() -> mpsc::Receiver<Key> {
    let (tell, keys) = mpsc::channel(KEYS_MAX);
    std::thread::spawn(move || {
        let mut bytes = [0; 256];
        while let Ok(count @ 1..) = io::stdin().lock().read(&mut bytes) {
            let mut rest = &bytes[..count];
            while !rest.is_empty() {
                let (key, taken) = Key::first_in(rest);
                if tell.blocking_send(key).is_err() {
                    return;
                }
                rest = &rest[taken..];
            }
        }
    });
    keys
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::mem::ManuallyDrop;
    use std::os::fd::OwnedFd;
    use std::process::Command;

    use rustix::fs::{Mode, OFlags, open};
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    use rustix::termios::LocalModes;

    use super::*;

    /// The side of who reads and types, and the side of the program.
    fn terminal() -> (File, OwnedFd) {
        let reader = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
        grantpt(&reader).expect("granted");
        unlockpt(&reader).expect("unlocked");
        let name = ptsname(&reader, Vec::new()).expect("its name");
        let program = open(name, OFlags::RDWR | OFlags::NOCTTY, Mode::empty()).expect("open");
        (File::from(reader), program)
    }

    fn is_raw(terminal: &OwnedFd) -> bool {
        let settings = tcgetattr(terminal).expect("its settings");
        !settings.local_modes.contains(LocalModes::ICANON)
    }

    /// Reads on until this came.
    fn read_up_to(reader: &mut File, seen: &mut String, text: &str) {
        let mut bytes = [0; 4096];
        while !seen.contains(text) {
            let count = reader.read(&mut bytes).expect("it goes on");
            seen.push_str(&String::from_utf8_lossy(&bytes[..count]));
        }
    }

    /// What the test below runs in a terminal: a part of the program panics while this one lives on.
    #[test]
    #[ignore = "takes over the terminal; another test runs it in one of its own"]
    fn a_part_of_the_program_panics_on_a_screen() {
        // Its end would give the terminal back too.
        let mut screen = ManuallyDrop::new(Screen::open().expect("a terminal"));
        screen.draw(|_, _| vec!["drawn".into()]).expect("drawn");
        io::stdin().read_exact(&mut [0]).expect("a key");
        let panicked = std::thread::spawn(|| panic!("a part of the program")).join();
        panicked.expect_err("a panic");
        let why = screen.draw(|_, _| vec!["drawn again".into()]).expect_err("it is given back");
        println!("ended: {why}");
    }

    #[test]
    fn who_panics_gives_the_terminal_back_first_and_nobody_draws_after_that() {
        let (mut reader, program) = terminal();
        let side = || program.try_clone().expect("the same terminal");
        let inner = "cli::top::screen::tests::a_part_of_the_program_panics_on_a_screen";
        let mut inside = Command::new(std::env::current_exe().expect("this test"))
            .args(["--exact", inner, "--ignored", "--nocapture"])
            .stdin(side())
            .stdout(side())
            .stderr(side())
            .spawn()
            .expect("it starts");
        let mut seen = String::new();
        read_up_to(&mut reader, &mut seen, "drawn");
        assert!(is_raw(&program));
        reader.write_all(b"x").expect("pressed");
        read_up_to(&mut reader, &mut seen, "test result");
        assert!(inside.wait().expect("a status").success(), "{seen}");
        assert!(!is_raw(&program), "{seen}");
        let at = |text: &str| seen.find(text).unwrap_or_else(|| panic!("no {text:?} in {seen:?}"));
        assert!(at(LEAVE) < at("a part of the program"), "the message is on the other screen");
        assert!(at("ended: the terminal was given back") > at(LEAVE));
        assert!(!seen.contains("drawn again"));
    }

    #[test]
    fn keys_are_known_by_what_terminals_send() {
        for (bytes, key) in [
            (&b"q"[..], Key::Quit),
            (b"\x03", Key::Quit),
            (b"\x1b[A", Key::Up),
            (b"\x1bOB", Key::Down),
            (b"\t", Key::NextPart),
            (b"\x1b[Z", Key::PreviousPart),
            (b"\x1b[6~", Key::PageDown),
            (b"\x1b[15~", Key::Other),
        ] {
            assert_eq!(Key::first_in(bytes), (key, bytes.len()), "{bytes:?}");
        }
        assert_eq!(Key::first_in(b"sq"), (Key::Sort, 1), "one after the other");
    }
}
