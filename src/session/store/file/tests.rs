//! Power cuts, damaged files and full disks, with a backend that fails on demand.

use super::database::{self, FORMAT};
use super::*;
use crate::session::store::{About, REMEMBER_REMOVALS};
use bytes::Bytes;
use redb::backends::FileBackend;
use redb::{Builder, ReadableTable, StorageBackend};
use std::fs;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use tempfile::TempDir;

/// What is wrong with the disk.
#[derive(Debug, Default)]
struct Weather {
    /// An errno for every write, growth and sync; 0: none.
    writes: AtomicI32,
    /// Bytes that can still be written before `writes` counts.
    room: AtomicU64,
    fails_reads: AtomicBool,
    syncs: AtomicU64,
    /// A sync waits as long as this is set.
    holds_syncs: AtomicBool,
}

#[derive(Debug)]
struct Stormy(FileBackend, Arc<Weather>);

impl Weather {
    fn fails(&self, bytes: u64) -> io::Result<()> {
        let errno = self.writes.load(Ordering::SeqCst);
        let room = self.room.load(Ordering::SeqCst);
        if errno == 0 {
            return Ok(());
        }
        self.room.store(room.saturating_sub(bytes), Ordering::SeqCst);
        if room > bytes { Ok(()) } else { Err(io::Error::from_raw_os_error(errno)) }
    }
}

impl StorageBackend for Stormy {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        if self.1.fails_reads.load(Ordering::SeqCst) {
            return Err(io::Error::from_raw_os_error(EIO));
        }
        self.0.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.1.fails(1)?;
        self.0.set_len(len)
    }

    /// Does not reach the disk, which nobody here cuts the power of.
    fn sync_data(&self) -> io::Result<()> {
        while self.1.holds_syncs.load(Ordering::SeqCst) {
            thread::sleep(Duration::from_millis(1));
        }
        self.1.syncs.fetch_add(1, Ordering::SeqCst);
        self.1.fails(1)
    }

    /// A write that fails has written half of it.
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        match self.1.fails(data.len() as u64) {
            Ok(()) => self.0.write(offset, data),
            Err(error) => {
                self.0.write(offset, &data[..data.len() / 2])?;
                Err(error)
            }
        }
    }
}

const EIO: i32 = 5;
const ENOSPC: i32 = 28;
const EROFS: i32 = 30;
const EDQUOT: i32 = 122;

struct Bench {
    directory: TempDir,
    clock: Clock,
    weather: Arc<Weather>,
}

impl Bench {
    fn new() -> Bench {
        Bench { directory: tempfile::tempdir().unwrap(), clock: Clock::system(), weather: Arc::default() }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("sessions.redb")
    }

    fn try_open(&self, path: &Path) -> Result<FileStore, FileProblem> {
        let weather = Arc::clone(&self.weather);
        let through = Box::new(move |file| Box::new(Stormy(file, Arc::clone(&weather))) as Box<dyn StorageBackend>);
        FileStore::open_at(Place { path: path.to_owned(), through }, 1000, self.clock.clone())
    }

    fn open(&self) -> FileStore {
        self.try_open(&self.path()).unwrap()
    }

    /// The store as a process finds it after another was killed at this moment.
    fn open_what_a_crash_leaves(&self) -> FileStore {
        let copy = self.directory.path().join("after-the-crash.redb");
        fs::copy(self.path(), &copy).unwrap();
        self.try_open(&copy).unwrap()
    }

    fn now(&self) -> Now {
        self.clock.now()
    }

    fn record(&self, user: &str) -> Record {
        let now = self.now().mono;
        let about = About {
            provider: "corp".into(),
            issuer: "https://idp".into(),
            subject: user.into(),
            sid: Some(format!("sid of {user}")),
            started: now,
            began: now,
            ends: now.after(HOUR * 72),
        };
        let sealed = Bytes::from(format!("secrets of {user} ").repeat(30));
        Record { version: 1, last_seen: now, expires: now.after(HOUR), about, sealed }
    }

    async fn create(&self, store: &FileStore, nth: u8, user: &str) -> Record {
        let record = self.record(user);
        let made = store.create(key(nth), record.clone(), 1000, self.now()).await;
        assert_eq!(made, Ok(Creation::Created { evicted: vec![] }));
        record
    }

    /// The names of all files but the store.
    fn other_files(&self) -> Vec<String> {
        let names = fs::read_dir(self.directory.path()).unwrap().map(|entry| entry.unwrap().file_name());
        names.map(|name| name.into_string().unwrap()).filter(|name| name != "sessions.redb").collect()
    }
}

const HOUR: Duration = Duration::from_secs(3600);

fn key(nth: u8) -> SessionKey {
    SessionKey::from_bytes([nth; 32])
}

fn next(record: &Record) -> Record {
    Record { version: record.version + 1, sealed: Bytes::from_static(b"newer secrets"), ..record.clone() }
}

async fn live(store: &FileStore, nth: u8, now: Now) -> Option<Record> {
    match store.find(key(nth), now).await.unwrap() {
        Lookup::Live(record) => Some(record),
        Lookup::Ended | Lookup::Unknown => None,
    }
}

fn claim(nth: u8, generation: u64, owner: u128) -> Claim {
    Claim { key: key(nth), generation, owner, life: Duration::from_secs(30) }
}

async fn eventually_writable(store: &FileStore) {
    for _ in 0..500 {
        // Whoever was refused may hear of it before the fault is known; a write waits its turn behind the healing.
        if store.ping().await.is_ok() && store.write(|_| Ok(())).await.is_ok() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the store does not heal: {:?}", store.ping().await);
}

#[tokio::test]
async fn what_was_acknowledged_is_there_after_an_orderly_end_and_after_a_crash() {
    let bench = Bench::new();
    let store = bench.open();
    let kept = bench.create(&store, 1, "ada").await;
    let replaced = bench.create(&store, 2, "bob").await;
    bench.create(&store, 3, "eve").await;
    let newer = next(&replaced);
    let answer = store.replace(key(2), 1, newer.clone(), bench.now()).await.unwrap();
    assert!(matches!(answer, Replacement::Replaced));
    assert_eq!(store.remove(key(3), bench.now()).await, Ok(true));
    let name = OnceName::new("state", "x");
    assert_eq!(store.take_once(name, HOUR, bench.now()).await, Ok(true));
    assert_eq!(store.take_once(name, HOUR, bench.now()).await, Ok(false));

    let crashed = bench.open_what_a_crash_leaves();
    store.close().await;
    drop(store);
    for reopened in [crashed, bench.open()] {
        assert_eq!(reopened.len(), Some(2));
        assert_eq!(live(&reopened, 1, bench.now()).await, Some(kept.clone()));
        assert_eq!(live(&reopened, 2, bench.now()).await, Some(newer.clone()));
        assert!(matches!(reopened.find(key(3), bench.now()).await, Ok(Lookup::Ended)));
        assert!(matches!(reopened.find(key(4), bench.now()).await, Ok(Lookup::Unknown)));
        assert_eq!(reopened.take_once(name, HOUR, bench.now()).await, Ok(false));
    }
    assert_eq!(bench.other_files(), ["after-the-crash.redb"]);
}

#[tokio::test]
async fn a_write_replaces_what_it_has_seen_or_nothing() {
    let bench = Bench::new();
    let store = bench.open();
    let first = bench.create(&store, 1, "ada").await;
    let second = next(&first);
    store.replace(key(1), 1, second.clone(), bench.now()).await.unwrap();
    let late = store.replace(key(1), 1, next(&second), bench.now()).await.unwrap();
    assert!(matches!(late, Replacement::Conflict(newest) if newest == second));
    store.remove(key(1), bench.now()).await.unwrap();
    assert_eq!(store.remove(key(1), bench.now()).await, Ok(false));
    assert!(matches!(store.replace(key(1), 2, next(&second), bench.now()).await, Ok(Replacement::Gone)));
    assert!(matches!(store.replace(key(9), 2, next(&second), bench.now()).await, Ok(Replacement::Gone)));
}

#[tokio::test]
async fn touches_are_kept_at_the_end_and_bring_nothing_back() {
    let bench = Bench::new();
    let store = bench.open();
    let record = bench.create(&store, 1, "ada").await;
    bench.create(&store, 2, "bob").await;
    bench.clock.advance(HOUR / 2);
    let seen_at = bench.now().mono;
    store.touch(key(1), seen_at, seen_at.after(HOUR)).await.unwrap();
    drop(store);

    let store = bench.open();
    let found = live(&store, 1, bench.now()).await.unwrap();
    assert_eq!((found.last_seen, found.expires, found.version), (seen_at, seen_at.after(HOUR), 1));
    bench.clock.advance(HOUR / 2);
    assert!(live(&store, 1, bench.now()).await.is_some());
    assert!(matches!(store.find(key(2), bench.now()).await, Ok(Lookup::Ended)));
    store.touch(key(2), bench.now().mono, bench.now().mono.after(HOUR)).await.unwrap();
    assert!(matches!(store.find(key(2), bench.now()).await, Ok(Lookup::Ended)), "expired, so touching is too late");

    let newer = Record { expires: record.expires, ..next(&record) };
    let answer = store.replace(key(1), 1, newer.clone(), bench.now()).await.unwrap();
    assert!(matches!(answer, Replacement::Replaced));
    drop(store);
    let found = bench.open().read(|txn| {
        let row = txn.open_table(RECORDS)?.get(key(1).as_bytes())?;
        Ok(row.and_then(|row| decode_row(&key(1), row.value())))
    });
    assert_eq!(found, Ok(Some(newer)), "a replacement says anew how long it lives");
}

// ST-17
#[tokio::test]
async fn a_second_gateway_is_refused_until_the_first_is_gone() {
    let bench = Bench::new();
    let first = bench.open();
    assert!(matches!(bench.try_open(&bench.path()), Err(FileProblem::InUse)));
    bench.create(&first, 1, "ada").await;
    first.close().await;
    assert!(matches!(first.remove(key(1), bench.now()).await, Err(StoreError { reason: "store_closed" })));
    assert_eq!(first.ping().await, Err(StoreError { reason: "store_closed" }));
    assert!(live(&bench.open(), 1, bench.now()).await.is_some());
    assert_eq!(bench.other_files(), [""; 0]);
}

#[tokio::test]
async fn a_refresh_that_a_crash_interrupted_is_told_to_the_next() {
    let bench = Bench::new();
    let store = bench.open();
    for nth in 1..=3 {
        bench.create(&store, nth, "ada").await;
        assert_eq!(store.lease(&claim(nth, 7, 1), bench.now()).await, Ok(Lease::Granted { interrupted: false }));
    }
    assert_eq!(store.lease(&claim(1, 7, 2), bench.now()).await, Ok(Lease::Held));
    assert_eq!(store.renew_lease(&claim(1, 7, 1), bench.now()).await, Ok(true));
    assert_eq!(store.renew_lease(&claim(1, 7, 2), bench.now()).await, Ok(false));
    store.release_lease(&claim(2, 7, 1), true).await.unwrap();
    assert_eq!(store.renew_lease(&claim(2, 7, 1), bench.now()).await, Ok(false));
    bench.create(&store, 4, "bob").await;

    let store = bench.open_what_a_crash_leaves();
    assert_eq!(store.lease(&claim(1, 7, 2), bench.now()).await, Ok(Lease::Granted { interrupted: true }));
    assert_eq!(store.lease(&claim(2, 7, 2), bench.now()).await, Ok(Lease::Granted { interrupted: false }));
    let next_generation = store.lease(&claim(3, 8, 2), bench.now()).await;
    assert_eq!(next_generation, Ok(Lease::Granted { interrupted: false }));
}

#[tokio::test]
async fn a_lease_given_back_unresolved_or_lapsed_was_interrupted() {
    let bench = Bench::new();
    let store = bench.open();
    bench.create(&store, 1, "ada").await;
    store.lease(&claim(1, 7, 1), bench.now()).await.unwrap();
    store.release_lease(&claim(1, 7, 1), false).await.unwrap();
    assert_eq!(store.lease(&claim(1, 7, 2), bench.now()).await, Ok(Lease::Granted { interrupted: true }));
    bench.clock.advance(Duration::from_secs(31));
    assert_eq!(store.lease(&claim(1, 7, 3), bench.now()).await, Ok(Lease::Granted { interrupted: true }));
    store.release_lease(&claim(1, 7, 2), true).await.unwrap();
    assert_eq!(store.lease(&claim(1, 7, 4), bench.now()).await, Ok(Lease::Held), "owner 2 has nothing to give back");
}

#[tokio::test]
async fn a_lease_that_is_not_on_the_disk_is_not_granted() {
    let bench = Bench::new();
    let store = bench.open();
    bench.create(&store, 1, "ada").await;
    bench.weather.writes.store(EIO, Ordering::SeqCst);
    let refused = store.lease(&claim(1, 7, 1), bench.now()).await;
    assert_eq!(refused, Err(StoreError { reason: "store_io" }));
    bench.weather.writes.store(0, Ordering::SeqCst);
    eventually_writable(&store).await;
    assert_eq!(store.lease(&claim(1, 7, 2), bench.now()).await, Ok(Lease::Granted { interrupted: false }));
}

#[tokio::test]
async fn a_users_oldest_sessions_go_first() {
    let bench = Bench::new();
    let store = bench.open();
    let elsewhere =
        Record { about: About { issuer: "https://other".into(), ..bench.record("ada").about }, ..bench.record("ada") };
    store.create(key(9), elsewhere, 2, bench.now()).await.unwrap();
    let mut records = Vec::new();
    for _ in 0..3 {
        bench.clock.advance(Duration::from_secs(1));
        records.push(bench.record("ada"));
    }
    // Not in the order in which they began.
    for (nth, at, evicted) in [(2, 1, vec![]), (1, 0, vec![]), (3, 2, vec![key(1)])] {
        let made = store.create(key(nth), records[at].clone(), 2, bench.now()).await;
        assert_eq!(made, Ok(Creation::Created { evicted }));
    }
    assert!(matches!(store.find(key(1), bench.now()).await, Ok(Lookup::Ended)));
    assert!(live(&store, 9, bench.now()).await.is_some());
}

#[tokio::test]
async fn a_sign_out_takes_logins_under_way_with_it_even_over_a_restart() {
    let bench = Bench::new();
    let store = bench.open();
    for (nth, user) in [(1, "ada"), (2, "ada"), (3, "bob")] {
        bench.create(&store, nth, user).await;
    }
    let under_way = bench.record("ada");
    let of_another = bench.record("eve");
    let anybody = Filter { issuer: Some("https://idp".into()), ..Filter::default() };
    assert_eq!(store.remove_where(&anybody, bench.now()).await, Ok(vec![]), "nobody is named");
    let elsewhere = Filter { issuer: Some("https://other".into()), subject: Some("ada".into()), sid: None };
    assert_eq!(store.remove_where(&elsewhere, bench.now()).await, Ok(vec![]));
    let ada = Filter { issuer: Some("https://idp".into()), subject: Some("ada".into()), sid: None };
    let mut removed = store.remove_where(&ada, bench.now()).await.unwrap();
    removed.sort_by_key(|key| *key.as_bytes());
    assert_eq!(removed, [key(1), key(2)]);
    let bobs = Filter { sid: Some("sid of bob".into()), ..Filter::default() };
    assert_eq!(store.remove_where(&bobs, bench.now()).await, Ok(vec![key(3)]));
    assert_eq!(store.len(), Some(0));
    drop(store);

    let store = bench.open();
    assert_eq!(store.create(key(4), under_way.clone(), 9, bench.now()).await, Ok(Creation::Revoked));
    assert!(matches!(store.find(key(4), bench.now()).await, Ok(Lookup::Unknown)));
    assert!(matches!(store.create(key(5), of_another, 9, bench.now()).await, Ok(Creation::Created { .. })));
    bench.clock.advance(Duration::from_millis(1));
    assert!(matches!(store.create(key(6), bench.record("ada"), 9, bench.now()).await, Ok(Creation::Created { .. })));
    bench.clock.advance(REMEMBER_REMOVALS);
    store.sweep(bench.now()).await.unwrap();
    assert!(matches!(store.create(key(7), under_way, 9, bench.now()).await, Ok(Creation::Created { .. })));
}

#[tokio::test]
async fn sweeping_drops_what_is_over_and_remembers_that_it_was_there_for_a_day() {
    let bench = Bench::new();
    let store = bench.open();
    let name = OnceName::new("state", "x");
    store.take_once(name, HOUR / 2, bench.now()).await.unwrap();
    for nth in 1..=50 {
        bench.create(&store, nth, "ada").await;
    }
    store.lease(&claim(1, 1, 1), bench.now()).await.unwrap();
    bench.clock.advance(HOUR);
    assert_eq!(store.len(), Some(50));
    store.sweep(bench.now()).await.unwrap();
    assert_eq!(store.len(), Some(0));
    assert_eq!(store.take_once(name, HOUR, bench.now()).await, Ok(true));
    drop(store);

    let store = bench.open();
    assert!(matches!(store.find(key(50), bench.now()).await, Ok(Lookup::Ended)));
    assert_eq!(store.lease(&claim(1, 1, 2), bench.now()).await, Ok(Lease::Granted { interrupted: false }));
    bench.clock.advance(HOUR * 24);
    store.sweep(bench.now()).await.unwrap();
    assert!(matches!(store.find(key(50), bench.now()).await, Ok(Lookup::Unknown)));
}

#[tokio::test]
async fn churn_leaves_the_file_as_small_as_it_was() {
    let bench = Bench::new();
    let store = bench.open();
    let mut sizes = Vec::new();
    for _ in 0..12 {
        for nth in 0..200 {
            let record = Record { sealed: Bytes::from(vec![7; 3000]), ..bench.record(&nth.to_string()) };
            store.create(key(nth), record, 9, bench.now()).await.unwrap();
        }
        bench.clock.advance(HOUR);
        store.sweep(bench.now()).await.unwrap();
        sizes.push(fs::metadata(bench.path()).unwrap().len());
    }
    assert!(sizes[11] <= sizes[3], "{sizes:?}");
}

#[tokio::test]
async fn a_store_that_is_full_takes_nobody_in_until_somebody_has_left() {
    let bench = Bench::new();
    let weather = Arc::clone(&bench.weather);
    let through = Box::new(move |file| Box::new(Stormy(file, Arc::clone(&weather))) as Box<dyn StorageBackend>);
    let store = FileStore::open_at(Place { path: bench.path(), through }, 2, bench.clock.clone()).unwrap();
    bench.create(&store, 1, "ada").await;
    bench.create(&store, 2, "bob").await;
    assert_eq!(store.create(key(3), bench.record("eve"), 1, bench.now()).await, Ok(Creation::Full));
    assert_eq!(store.len(), Some(2));
    bench.clock.advance(HOUR);
    assert!(matches!(store.create(key(3), bench.record("eve"), 1, bench.now()).await, Ok(Creation::Created { .. })));
    assert_eq!(store.len(), Some(1));
}

#[tokio::test]
async fn lists_come_in_pages() {
    let bench = Bench::new();
    let store = bench.open();
    for nth in 0..250 {
        bench.create(&store, nth, if nth % 2 == 0 { "ada" } else { "bob" }).await;
    }
    let ada = Filter { subject: Some("ada".into()), ..Filter::default() };
    let idp = Filter { issuer: Some("https://idp".into()), ..Filter::default() };
    let nobody = Filter { sid: Some("x".into()), ..Filter::default() };
    for (filter, count) in [(Filter::default(), 250), (ada, 125), (idp, 250), (nobody, 0)] {
        let (mut found, mut cursor) = (Vec::new(), None);
        loop {
            let page = store.list(&filter, cursor.as_deref(), bench.now()).await.unwrap();
            assert!(page.records.len() <= PAGE);
            found.extend(page.records.into_iter().map(|(key, _)| key));
            cursor = page.next;
            if cursor.is_none() {
                break;
            }
        }
        assert!(found.is_sorted_by_key(|key| *key.as_bytes()));
        assert_eq!(found.len(), count, "{filter:?}");
    }
}

// ST-15
#[tokio::test]
async fn a_disk_that_takes_nothing_stops_writes_alone_and_heals() {
    for (errno, reason) in [(ENOSPC, "disk_full"), (EDQUOT, "disk_full"), (EROFS, "store_read_only"), (EIO, "store_io")]
    {
        let bench = Bench::new();
        let store = bench.open();
        let kept = bench.create(&store, 1, "ada").await;
        bench.weather.writes.store(errno, Ordering::SeqCst);
        let refused = Err(StoreError { reason });
        assert_eq!(store.create(key(2), bench.record("bob"), 9, bench.now()).await, refused);
        assert_eq!(store.ping().await.map_err(|error| error.reason), Err(reason));
        assert_eq!(store.remove(key(1), bench.now()).await, Err(StoreError { reason }));
        assert_eq!(live(&store, 1, bench.now()).await, Some(kept.clone()));
        assert_eq!(live(&bench.open_what_a_crash_leaves_of(errno), 1, bench.now()).await, Some(kept.clone()));

        bench.weather.writes.store(0, Ordering::SeqCst);
        eventually_writable(&store).await;
        bench.create(&store, 3, "eve").await;
        drop(store);
        let store = bench.open();
        assert_eq!(live(&store, 1, bench.now()).await, Some(kept));
        assert!(live(&store, 3, bench.now()).await.is_some());
        assert_eq!(bench.other_files(), ["after-the-crash.redb"], "{reason}");
    }
}

impl Bench {
    /// On a disk that works.
    fn open_what_a_crash_leaves_of(&self, errno: i32) -> FileStore {
        self.weather.writes.store(0, Ordering::SeqCst);
        let store = self.open_what_a_crash_leaves();
        self.weather.writes.store(errno, Ordering::SeqCst);
        store
    }
}

// ST-15
#[tokio::test]
async fn a_write_that_stops_half_way_harms_nothing_that_was_there() {
    let bench = Bench::new();
    let store = bench.open();
    let mut acknowledged = Vec::new();
    for nth in 0..40 {
        bench.weather.room.store(u64::from(nth) * 1500, Ordering::SeqCst);
        bench.weather.writes.store(ENOSPC, Ordering::SeqCst);
        let record = bench.record("ada");
        let made = store.create(key(nth), record.clone(), 100, bench.now()).await;
        let crashed = bench.open_what_a_crash_leaves_of(0);
        for (nth, record) in &acknowledged {
            assert_eq!(live(&crashed, *nth, bench.now()).await.as_ref(), Some(record), "{nth}");
            assert_eq!(live(&store, *nth, bench.now()).await.as_ref(), Some(record), "{nth}");
        }
        acknowledged.extend(made.is_ok().then_some((nth, record)));
        eventually_writable(&store).await;
    }
    assert!((5..40).contains(&acknowledged.len()), "{}", acknowledged.len());
    assert_eq!(bench.other_files(), ["after-the-crash.redb"]);
}

#[tokio::test]
async fn a_disk_that_cannot_be_read_is_not_signed_out() {
    let bench = Bench::new();
    let store = bench.open();
    let record = bench.create(&store, 1, "ada").await;
    bench.weather.fails_reads.store(true, Ordering::SeqCst);
    // redb has read these pages before; it is the new one that has to.
    store.send(Message::Reopen { opening: 1, reason: "store_io" }).unwrap();
    while store.ping().await.is_ok() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(matches!(store.find(key(1), bench.now()).await, Err(StoreError { reason: "store_io" })));
    assert_eq!(store.remove(key(1), bench.now()).await, Err(StoreError { reason: "store_io" }));
    bench.weather.fails_reads.store(false, Ordering::SeqCst);
    eventually_writable(&store).await;
    assert_eq!(live(&store, 1, bench.now()).await, Some(record));
    assert_eq!(bench.other_files(), [""; 0], "a disk that fails is no damaged file");
}

#[tokio::test]
async fn a_panic_while_writing_fails_the_write_and_nothing_else() {
    let bench = Bench::new();
    let store = bench.open();
    let record = bench.create(&store, 1, "ada").await;
    let answer: Result<(), _> = store.write(|_| panic!("for the test")).await;
    assert!(answer.is_err());
    eventually_writable(&store).await;
    assert_eq!(live(&store, 1, bench.now()).await, Some(record));
    bench.create(&store, 2, "bob").await;
    assert_eq!((store.len(), bench.other_files()), (Some(2), vec![]), "the file was checked, and is whole");
}

#[tokio::test]
async fn writes_that_wait_together_share_an_fsync_and_reads_wait_for_none() {
    let bench = Bench::new();
    let store = Arc::new(bench.open());
    let record = bench.create(&store, 1, "ada").await;
    bench.weather.holds_syncs.store(true, Ordering::SeqCst);
    let before = bench.weather.syncs.load(Ordering::SeqCst);
    let writers: Vec<_> = (2..200)
        .map(|nth| {
            let (store, record, now) = (Arc::clone(&store), bench.record("bob"), bench.now());
            tokio::spawn(async move { store.create(key(nth), record, 1000, now).await.unwrap() })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(live(&store, 1, bench.now()).await, Some(record));
    assert!(writers.iter().all(|writer| !writer.is_finished()), "nothing is acknowledged before its fsync");
    bench.weather.holds_syncs.store(false, Ordering::SeqCst);
    for writer in writers {
        writer.await.unwrap();
    }
    let syncs = bench.weather.syncs.load(Ordering::SeqCst) - before;
    assert!(syncs <= 10, "{syncs} for 198 sessions");
}

#[tokio::test]
async fn a_record_that_cannot_be_read_counts_as_none() {
    let bench = Bench::new();
    let store = bench.open();
    bench.create(&store, 1, "ada").await;
    let other = bench.create(&store, 2, "bob").await;
    store
        .write(|ledger| {
            let mut row = ledger.tables.records.get(key(1).as_bytes())?.unwrap().value().to_owned();
            row[20] ^= 1;
            ledger.tables.records.insert(key(1).as_bytes(), row.as_slice())?;
            // A whole row, and of another session.
            let bobs = ledger.tables.records.get(key(2).as_bytes())?.unwrap().value().to_owned();
            ledger.tables.records.insert(key(3).as_bytes(), bobs.as_slice())?;
            ledger.has_changed = true;
            Ok(())
        })
        .await
        .unwrap();
    for nth in [1, 3] {
        assert!(matches!(store.find(key(nth), bench.now()).await, Ok(Lookup::Unknown)));
        assert!(matches!(store.replace(key(nth), 1, other.clone(), bench.now()).await, Ok(Replacement::Gone)));
    }
    drop(store);
    let store = bench.open();
    assert_eq!(store.len(), Some(1));
    assert_eq!(live(&store, 2, bench.now()).await, Some(other));
}

#[tokio::test]
async fn a_newer_format_is_left_as_it_is() {
    let bench = Bench::new();
    let store = bench.open();
    bench.create(&store, 1, "ada").await;
    drop(store);
    let write_format = |format| database::write_format(&Builder::new().create(bench.path()).unwrap(), format);
    write_format(FORMAT + 1);
    let problem = bench.try_open(&bench.path()).err().unwrap();
    assert!(matches!(problem, FileProblem::NewerFormat(format) if format == FORMAT + 1), "{problem}");
    assert!(problem.to_string().contains("newer version"));
    write_format(FORMAT);
    assert!(live(&bench.open(), 1, bench.now()).await.is_some());
    assert_eq!(bench.other_files(), [""; 0]);
}

#[cfg(unix)]
#[tokio::test]
async fn the_file_is_its_owners_alone() {
    use std::os::unix::fs::PermissionsExt;
    let bench = Bench::new();
    let mode = || fs::metadata(bench.path()).unwrap().permissions().mode() & 0o777;
    drop(bench.open());
    assert_eq!(mode(), 0o600);
    fs::set_permissions(bench.path(), fs::Permissions::from_mode(0o644)).unwrap();
    drop(bench.open());
    assert_eq!(mode(), 0o600);
}

#[tokio::test]
async fn what_cannot_be_a_file_is_said() {
    let bench = Bench::new();
    let is_problem = |path: &Path| matches!(bench.try_open(path), Err(FileProblem::Io(_)));
    assert!(is_problem(bench.directory.path()));
    assert!(is_problem(&bench.directory.path().join("no such directory/sessions.redb")));
    bench.weather.writes.store(ENOSPC, Ordering::SeqCst);
    assert!(matches!(bench.try_open(&bench.path()), Err(FileProblem::Full)));
    bench.weather.writes.store(0, Ordering::SeqCst);
    drop(bench.open());
    assert_eq!(bench.other_files(), [""; 0], "a file that could not be begun is begun later");
}

/// Opens files that differ in one way or another from one that is whole.
struct Damages {
    bench: Bench,
    whole: Vec<u8>,
    records: Vec<Record>,
    set_aside: usize,
}

impl Damages {
    /// `in_order`: whether the store was closed; else its process was killed a moment after the last write.
    async fn new(in_order: bool) -> Damages {
        let bench = Bench::new();
        let store = bench.open();
        let mut records = Vec::new();
        for nth in 0..40 {
            records.push(bench.create(&store, nth, &format!("user {nth}")).await);
        }
        store.remove(key(39), bench.now()).await.unwrap();
        records.pop();
        if in_order {
            store.close().await;
        } else {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        let whole = fs::read(bench.path()).unwrap();
        drop(store);
        Damages { bench, whole, records, set_aside: 0 }
    }

    /// All sessions are there, or none and the file was moved aside; never a wrong one. A store that opens works.
    async fn check(&mut self, what: &str, bytes: &[u8]) {
        let path = self.bench.path();
        fs::write(&path, bytes).unwrap();
        let store = self.bench.try_open(&path).unwrap_or_else(|problem| panic!("{what}: {problem}"));
        let moved = self.bench.other_files();
        let now = self.bench.now();
        for (nth, record) in (0..).zip(&self.records) {
            let found = live(&store, nth, now).await;
            assert!(found.as_ref().is_none_or(|found| found == record), "{what}: session {nth} is a wrong one");
            assert_eq!(found.is_some(), moved.is_empty(), "{what}: session {nth}");
        }
        assert!(live(&store, 39, now).await.is_none(), "{what}: what was removed is back");
        self.bench.create(&store, 200, "somebody").await;
        drop(store);
        for name in &moved {
            assert!(name.starts_with("sessions.redb.damaged-"), "{what}: {name}");
            assert_eq!(fs::metadata(self.bench.directory.path().join(name)).unwrap().len(), bytes.len() as u64);
            fs::remove_file(self.bench.directory.path().join(name)).unwrap();
        }
        self.set_aside += moved.len();
    }

    fn used(&self) -> Range<usize> {
        0..self.whole.iter().rposition(|&byte| byte != 0).unwrap() + 1
    }
}

#[tokio::test]
async fn a_whole_file_is_not_set_aside() {
    for in_order in [true, false] {
        let mut damages = Damages::new(in_order).await;
        let whole = damages.whole.clone();
        damages.check("whole", &whole).await;
        assert_eq!(damages.set_aside, 0);
    }
}

#[tokio::test]
async fn flipped_bits_are_found() {
    for in_order in [true, false] {
        let mut damages = Damages::new(in_order).await;
        let mut random = fastrand::Rng::with_seed(7);
        for round in 0..150 {
            let mut bytes = damages.whole.clone();
            // Every third in the first page, which says where all others are.
            let range = if round % 3 == 0 { 0..320 } else { damages.used() };
            let at = random.usize(range);
            bytes[at] ^= 1 << random.u8(0..8);
            damages.check(&format!("a bit of byte {at} flipped, closed: {in_order}"), &bytes).await;
        }
        assert!(damages.set_aside > 30, "{}", damages.set_aside);
    }
}

#[tokio::test]
async fn truncated_files_are_found() {
    let mut damages = Damages::new(true).await;
    let (whole, used) = (damages.whole.clone(), damages.used());
    let tail = (whole.len() - 40..whole.len()).chain((used.end - 40..used.end).step_by(3));
    let pages =
        (0..whole.len()).step_by(whole.len().div_ceil(40 * 4096) * 4096).flat_map(|page| [page + 1, page + 4095]);
    for len in tail.chain(pages).chain([1, 8, 9, 63, 64, 319, 320, 4095, 4096]) {
        damages.check(&format!("cut to {len} bytes"), &whole[..len]).await;
    }
    assert!(damages.set_aside > 60, "{}", damages.set_aside);
}

// ST-16, as the two before
#[tokio::test]
async fn zeroed_pages_and_foreign_files_are_found() {
    let mut damages = Damages::new(true).await;
    let (whole, used) = (damages.whole.clone(), damages.used());
    for page in (0..used.end).step_by(4096) {
        let mut bytes = whole.clone();
        bytes[page..(page + 4096).min(whole.len())].fill(0);
        damages.check(&format!("page {page} zeroed"), &bytes).await;
    }
    let mut magic = whole.clone();
    magic[..4].copy_from_slice(b"SQLi");
    damages.check("another magic", &magic).await;
    damages.check("text", b"[session]\n").await;
    damages.check("noise", &std::iter::repeat_with(|| fastrand::u8(..)).take(9000).collect::<Vec<u8>>()).await;
    assert!(damages.set_aside > 5, "{}", damages.set_aside);
}

#[tokio::test]
async fn a_file_damaged_under_a_running_store_is_replaced_without_a_restart() {
    let bench = Bench::new();
    let store = bench.open();
    bench.create(&store, 1, "ada").await;
    let len = fs::metadata(bench.path()).unwrap().len() as usize;
    fs::write(bench.path(), vec![0xaa; len]).unwrap();
    store.send(Message::Reopen { opening: 1, reason: "store_damaged" }).unwrap();
    while store.len() == Some(1) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    eventually_writable(&store).await;
    bench.create(&store, 2, "bob").await;
    drop(store);
    assert!(live(&bench.open(), 2, bench.now()).await.is_some());
    assert_eq!(bench.other_files().len(), 1);
}
