//! `roster top`, in a terminal and for a pipe.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::fs::{Mode, OFlags, open};
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};
use tokio::process::Child;
use tokio::sync::mpsc;

use crate::run::{Cluster, out, roster, within};
use crate::scripted::{Act, Scripted, endpoints};

/// A terminal with somebody who reads it.
struct Terminal {
    keys: File,
    user_side: OwnedFd,
    output: mpsc::UnboundedReceiver<Vec<u8>>,
    seen: String,
}

impl Terminal {
    fn open(width: u16, height: u16) -> Self {
        let screen = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
        grantpt(&screen).expect("granted");
        unlockpt(&screen).expect("unlocked");
        let name = ptsname(&screen, Vec::new()).expect("its name");
        let user_side = open(name, OFlags::RDWR | OFlags::NOCTTY, Mode::empty()).expect("open");
        let keys = File::from(screen);
        let mut reader = keys.try_clone().expect("the same terminal");
        let (tell, output) = mpsc::unbounded_channel();
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = reader.read(&mut bytes) {
                if tell.send(bytes[..count].to_vec()).is_err() {
                    return;
                }
            }
        });
        let terminal = Self { keys, user_side, output, seen: String::new() };
        terminal.resize(width, height);
        terminal
    }

    fn resize(&self, width: u16, height: u16) {
        let size = Winsize { ws_col: width, ws_row: height, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&self.keys, size).expect("a size");
    }

    fn press(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).expect("pressed");
    }

    fn is_raw(&self) -> bool {
        let modes = tcgetattr(&self.user_side).expect("its settings").local_modes;
        !modes.contains(LocalModes::ICANON)
    }

    /// The next whole picture of which this is true.
    async fn picture(&mut self, what: &str, fits: impl Fn(&str) -> bool) -> String {
        let found = async {
            loop {
                while let Some(at) = self.seen.find("\x1b[?2026l") {
                    let picture = self.seen[..at].to_owned();
                    self.seen.drain(..at + 8);
                    if fits(&picture) {
                        return picture;
                    }
                }
                let more = self.output.recv().await.expect("it goes on");
                self.seen.push_str(&String::from_utf8_lossy(&more));
            }
        };
        within(what, found).await
    }

    /// Reads until this comes.
    async fn read_up_to(&mut self, text: &str) {
        let found = async {
            while !self.seen.contains(text) {
                let more = self.output.recv().await.expect("it goes on");
                self.seen.push_str(&String::from_utf8_lossy(&more));
            }
        };
        within(text, found).await;
    }
}

const LEAVE: &str = "\x1b[?25h\x1b[?1049l";

fn start(terminal: &Terminal, endpoints: &str) -> Child {
    let side = || terminal.user_side.try_clone().expect("the same terminal");
    let arguments = ["top", "--interval", "200ms", "--color", "never"];
    let mut command = roster(&arguments, endpoints);
    command.env("TERM", "xterm").stdin(side()).stdout(side());
    command.spawn().expect("it starts")
}

fn signal(process: &Child, signal: Signal) {
    let pid = Pid::from_raw(process.id().expect("it runs") as i32).expect("a pid");
    kill_process(pid, signal).expect("it gets the signal");
}

#[tokio::test]
async fn one_picture_is_text_for_a_pipe() {
    let cluster = Cluster::start(1).await;
    let endpoints = cluster.endpoints();
    out(&["instance", "register", "pay", "a", "--ttl", "10m"], &endpoints).await;
    let picture = out(&["top", "--once"], &endpoints).await;
    assert!(!picture.contains('\x1b'), "{picture}");
    for part in ["Healthy", "leader 1", "instances 1: up 1", "1     leader", "Apps: 1", "pay/a"] {
        assert!(picture.contains(part), "{part:?} in {picture}");
    }
    cluster.stop().await;
}

#[tokio::test]
async fn it_lives_on_when_the_node_dies_that_it_asks_and_gives_the_terminal_back() {
    let cluster = Cluster::start(3).await;
    let mut terminal = Terminal::open(120, 40);
    assert!(!terminal.is_raw());
    let mut top = start(&terminal, &cluster.endpoints());
    let [first, second] = [&cluster.nodes[0], &cluster.nodes[1]];
    let of = |node: &str| format!("roster top   {node}");
    let picture = terminal.picture("a healthy cluster", |p| p.contains("Healthy")).await;
    assert!(picture.contains(&of(first)), "{picture}");
    assert!(terminal.is_raw());

    out(&["instance", "register", "pay", "a", "--ttl", "10m"], &cluster.endpoints()).await;
    terminal.picture("the instance", |p| p.contains("instances 1: up 1")).await;
    terminal.press("s");
    terminal.picture("another order", |p| p.contains("by changes in 10 s")).await;
    terminal.press("p");
    terminal.picture("a pause", |p| p.contains("PAUSED")).await;
    terminal.press("pn");
    terminal.picture("another node", |p| p.contains(&of(second)) && !p.contains("PAUSED")).await;

    terminal.resize(50, 12);
    signal(&top, Signal::WINCH);
    let small = terminal.picture("a small picture", |p| p.lines().count() <= 12).await;
    let widest = small.lines().map(|line| line.replace("\x1b[K", "").trim().chars().count()).max();
    assert!(widest <= Some(50 + "\x1b[?2026h\x1b[H".len()), "{small}");
    terminal.resize(120, 40);
    signal(&top, Signal::WINCH);

    cluster.kill(1);
    let degraded = |p: &str| p.contains("Degraded") && p.contains("unreachable");
    let picture = terminal.picture("the others without it", degraded).await;
    assert!(!picture.contains(&of(second)), "{picture}");

    signal(&top, Signal::TERM);
    terminal.read_up_to(LEAVE).await;
    let status = within("its end", top.wait()).await.expect("a status");
    assert_eq!(status.code(), Some(0));
    assert!(!terminal.is_raw());
    cluster.stop().await;
}

#[tokio::test]
async fn ctrl_c_and_q_end_it_also_where_nobody_answers() {
    let nobody = crate::scripted::nobody().await.to_string();
    for key in ["\x03", "q"] {
        let mut terminal = Terminal::open(80, 24);
        let mut top = start(&terminal, &nobody);
        terminal.picture("why there is nothing", |p| p.contains("nothing newer")).await;
        terminal.press(key);
        terminal.read_up_to(LEAVE).await;
        assert_eq!(within("its end", top.wait()).await.expect("a status").code(), Some(0));
        assert!(!terminal.is_raw());
    }
}

#[tokio::test]
async fn a_node_that_is_silent_is_left_also_while_keys_are_pressed_all_the_time() {
    let silence = vec![Act::Always(Box::new(|| Act::Silence))];
    let silent = Scripted::on([("GET", silence)]).await;
    let cluster = Cluster::start(1).await;
    let endpoints = format!("{},{}", endpoints(&[&silent]), cluster.endpoints());
    let mut terminal = Terminal::open(80, 24);
    let mut top = start(&terminal, &endpoints);
    // More often than a node is given up.
    let mut hand = tokio::time::interval(Duration::from_millis(500));
    let pressed = async {
        loop {
            hand.tick().await;
            terminal.press("j");
            if terminal.picture("a picture", |_| true).await.contains("Healthy") {
                return;
            }
        }
    };
    within("the other node", pressed).await;
    terminal.press("q");
    terminal.read_up_to(LEAVE).await;
    assert_eq!(within("its end", top.wait()).await.expect("a status").code(), Some(0));
    cluster.stop().await;
}
