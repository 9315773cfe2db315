//! Kills a process that writes sessions into a file at full speed, again and again, and looks at what is left:
//! everything that was acknowledged, and nothing that nobody wrote. `LATCHGATE_KILL_ROUNDS` says how often.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use bytes::Bytes;
use latchgate::clock::{Clock, Mono, Now};
use latchgate::session::SessionKey;
use latchgate::session::store::{
    About, Claim, Creation, FileSettings, FileStore, Lease, Lookup, Record, Replacement, SessionStore,
};
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

/// The file that the child writes, and the round it is in.
const CHILD_FILE: &str = "LATCHGATE_KILL_CHILD_FILE";
const CHILD_ROUND: &str = "LATCHGATE_KILL_CHILD_ROUND";
const WRITERS: u32 = 32;
const LAST_VERSION: u64 = 4;

/// Round, writer, and which of its sessions. Each writer has one session at a time, refreshes it until
/// [`LAST_VERSION`], removes two of three, and goes on to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Name {
    round: u32,
    writer: u32,
    nth: u32,
}

/// What was acknowledged last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Event {
    Written(u64),
    Leased(u64),
    Removed,
}

impl Name {
    fn key(self) -> SessionKey {
        let mut bytes = [0; 32];
        for (at, number) in [self.writer, self.nth, self.round].into_iter().enumerate() {
            bytes[at * 4..at * 4 + 4].copy_from_slice(&number.to_be_bytes());
        }
        SessionKey::from_bytes(bytes)
    }

    fn of(key: &SessionKey) -> Name {
        let number = |at: usize| u32::from_be_bytes(key.as_bytes()[at * 4..at * 4 + 4].try_into().unwrap());
        Name { writer: number(0), nth: number(1), round: number(2) }
    }

    fn record(self, version: u64) -> Record {
        let about = About {
            provider: "corp".into(),
            issuer: "https://idp".into(),
            subject: format!("{self:?}"),
            sid: None,
            started: Mono(1),
            ends: Mono(u64::MAX),
            began: Mono(1),
        };
        let sealed = Bytes::from(format!("version {version} of {self:?} ").repeat(20));
        Record { version, last_seen: Mono(1), expires: Mono(u64::MAX), about, sealed }
    }

    fn is_removed(self) -> bool {
        !self.nth.is_multiple_of(3)
    }

    fn claim(self, generation: u64) -> Claim {
        Claim { key: self.key(), generation, owner: fastrand::u128(..), life: Duration::from_secs(60) }
    }
}

// ST-13
#[test]
fn what_was_acknowledged_survives_being_killed() {
    if let Ok(path) = std::env::var(CHILD_FILE) {
        return write_until_killed(Path::new(&path), std::env::var(CHILD_ROUND).unwrap().parse().unwrap());
    }
    let rounds = std::env::var("LATCHGATE_KILL_ROUNDS").map_or(20, |rounds| rounds.parse().unwrap());
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("sessions.redb");
    let mut acknowledged = HashMap::new();
    let mut total = 0;
    for round in 0..rounds {
        let events = run_and_kill(&path, round);
        total += events.len();
        acknowledged.extend(events.iter().copied());
        // A copy, so that the next child has to recover by itself.
        let copy = directory.path().join("copy.redb");
        if std::fs::copy(&path, &copy).is_ok() {
            let (took, sessions) = check(&copy, round, &mut acknowledged);
            println!("round {round}: {} acknowledged, {sessions} sessions, open in {took:?}", events.len());
        }
    }
    assert!(total > rounds as usize * 20, "{total} writes are too few to say anything");
    let mut names: Vec<_> = std::fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["copy.redb", "sessions.redb"], "nothing was set aside, nothing is left over");
}

/// What the child said before it was killed.
fn run_and_kill(path: &Path, round: u32) -> Vec<(Name, Event)> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "what_was_acknowledged_survives_being_killed", "--nocapture"])
        .env(CHILD_FILE, path)
        .env(CHILD_ROUND, round.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut events = Vec::new();
    let mut next = move || {
        let mut line = String::new();
        (output.read_line(&mut line).unwrap() > 0 && line.ends_with('\n')).then_some(line)
    };
    // Now and then while it opens the file.
    if fastrand::u8(..10) > 0 {
        while let Some(line) = next() {
            if let Some(event) = event_of(&line, round) {
                events.push(event);
                break;
            }
        }
    }
    let reader = thread::spawn(move || {
        while let Some(line) = next() {
            events.extend(event_of(&line, round));
        }
        events
    });
    thread::sleep(Duration::from_millis(fastrand::u64(..200)));
    child.kill().unwrap();
    child.wait().unwrap();
    reader.join().unwrap()
}

/// `written 3 14 2`: writer 3, its session 14, version 2.
fn event_of(line: &str, round: u32) -> Option<(Name, Event)> {
    let mut words = line.split_ascii_whitespace().skip_while(|word| !["written", "leased", "removed"].contains(word));
    let what = words.next()?;
    let mut number = || words.next()?.parse::<u32>().ok();
    let name = Name { round, writer: number()?, nth: number()? };
    let version = u64::from(number()?);
    let event = match what {
        "written" => Event::Written(version),
        "leased" => Event::Leased(version),
        _ => Event::Removed,
    };
    Some((name, event))
}

/// How long it took to open, and how many are there. What was under way in this round now counts as found.
fn check(path: &Path, round: u32, acknowledged: &mut HashMap<Name, Event>) -> (Duration, usize) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let clock = Clock::system();
    let began = clock.mono();
    let settings = FileSettings { path: path.to_owned(), most_sessions: 1_000_000 };
    let store = FileStore::open(&settings, clock.clone()).unwrap();
    let took = clock.mono().since(began);
    runtime.block_on(async {
        let now = clock.now();
        for (name, event) in acknowledged.iter_mut() {
            let found = store.find(name.key(), now).await.unwrap();
            let version = match &found {
                Lookup::Live(record) => {
                    assert_eq!(*record, name.record(record.version), "a record that nobody wrote");
                    record.version
                }
                Lookup::Ended => 0,
                Lookup::Unknown => panic!("{name:?} is lost; acknowledged: {event:?}"),
            };
            let is_under_way = name.round == round;
            let may_be_removed = name.is_removed() && is_under_way;
            let is_right = match *event {
                Event::Written(LAST_VERSION) if may_be_removed && version == 0 => true,
                Event::Written(written) => version == written || (is_under_way && version == written + 1),
                Event::Leased(leased) => version == leased || (is_under_way && version == leased + 1),
                Event::Removed => version == 0,
            };
            assert!(is_right, "{name:?}: version {version} of what was {event:?}");
            if let Event::Leased(generation) = *event
                && is_under_way
            {
                let lease = store.lease(&name.claim(generation), now).await.unwrap();
                assert_eq!(lease, Lease::Granted { interrupted: true }, "{name:?}: who refreshed is forgotten");
            }
            *event = match (*event, version) {
                (_, 0) => Event::Removed,
                (Event::Leased(leased), version) if version == leased => Event::Leased(leased),
                (_, version) => Event::Written(version),
            };
        }
        look_for_phantoms(&store, round, now, acknowledged).await;
    });
    (took, store.len().unwrap())
}

/// A session that was never acknowledged is one that was under way: the next of its writer.
async fn look_for_phantoms(store: &FileStore, round: u32, now: Now, acknowledged: &mut HashMap<Name, Event>) {
    let mut cursor = None;
    loop {
        let page = store.list(&Default::default(), cursor.as_deref(), now).await.unwrap();
        for (key, record) in page.records {
            let name = Name::of(&key);
            if acknowledged.contains_key(&name) {
                continue;
            }
            let before = name.nth.checked_sub(1).map(|nth| Name { nth, ..name });
            let is_next = before.is_none_or(|before| acknowledged.contains_key(&before));
            assert!(name.round == round && is_next && record == name.record(1), "{name:?} was never written");
            acknowledged.insert(name, Event::Written(1));
        }
        cursor = page.next;
        if cursor.is_none() {
            return;
        }
    }
}

fn write_until_killed(path: &Path, round: u32) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let clock = Clock::system();
    let settings = FileSettings { path: path.to_owned(), most_sessions: 1_000_000 };
    let store = Arc::new(FileStore::open(&settings, clock.clone()).unwrap());
    let writers = (0..WRITERS).map(|writer| {
        let (store, clock) = (Arc::clone(&store), clock.clone());
        runtime.spawn(async move {
            for nth in 0.. {
                live_one_life(&store, Name { round, writer, nth }, clock.now()).await;
            }
        })
    });
    let writers: Vec<_> = writers.collect();
    thread::sleep(Duration::from_secs(60));
    drop(writers);
}

async fn live_one_life(store: &FileStore, name: Name, now: Now) {
    let say = |event: &str, version: u64| {
        let mut output = std::io::stdout().lock();
        writeln!(output, "{event} {} {} {version}", name.writer, name.nth).unwrap();
        output.flush().unwrap();
    };
    let made = store.create(name.key(), name.record(1), 10, now).await.unwrap();
    assert_eq!(made, Creation::Created { evicted: vec![] });
    say("written", 1);
    for version in 1..LAST_VERSION {
        let claim = name.claim(version);
        assert_eq!(store.lease(&claim, now).await, Ok(Lease::Granted { interrupted: false }));
        say("leased", version);
        let replaced = store.replace(name.key(), version, name.record(version + 1), now).await;
        assert!(matches!(replaced, Ok(Replacement::Replaced)));
        say("written", version + 1);
        store.release_lease(&claim, true).await.unwrap();
    }
    if name.is_removed() {
        assert_eq!(store.remove(name.key(), now).await, Ok(true));
        say("removed", 0);
    }
}
