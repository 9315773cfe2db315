//! What has to happen at once: Lua scripts, each on keys of one slot, each safe to run twice.
//!
//! A first write goes by `pcall` and its error is the script's: `OOM` and `READONLY` keep their names in every
//! version of the server. Every script gives what it writes a TTL: a script is not interrupted half way.
//! Lives are durations, so nothing depends on the wall clock of the server.

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use std::fmt::Write;
use std::sync::LazyLock;

/// A script, and the name under which servers that have seen it know it.
pub(super) struct Script {
    pub(super) code: String,
    pub(super) sha1: String,
}

impl Script {
    fn new(code: &str) -> Script {
        let code = code.replace("LIMIT", &LARGEST_RECORD.to_string());
        let sha1 =
            digest(&SHA1_FOR_LEGACY_USE_ONLY, code.as_bytes()).as_ref().iter().fold(String::new(), |mut text, byte| {
                let _ = write!(text, "{byte:02x}");
                text
            });
        Script { code, sha1 }
    }
}

/// KEYS record, marker. `{version, seen, expires, record}`, else 0: nothing known; 1: there was one; 2: it is there and
/// no session.
pub(super) static FIND: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
local kind = redis.call('TYPE', KEYS[1]).ok
if kind == 'none' then return redis.call('EXISTS', KEYS[2]) end
if kind ~= 'hash' then return 2 end
for _, field in ipairs({'version', 'seen', 'expires', 'record'}) do
  if redis.call('HSTRLEN', KEYS[1], field) > LIMIT then return 2 end
end
return redis.call('HMGET', KEYS[1], 'version', 'seen', 'expires', 'record')
",
    )
});

/// KEYS record, marker. ARGV version, seen, expires, record, ends, life, life of the marker. 1: it is there; 0: the name was used before.
pub(super) static CREATE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
if redis.call('EXISTS', KEYS[1], KEYS[2]) > 0 then
  local same = redis.call('TYPE', KEYS[1]).ok == 'hash' and redis.call('HGET', KEYS[1], 'record') == ARGV[4]
  return same and 1 or 0
end
local written = redis.pcall('HSET', KEYS[1],
  'version', ARGV[1], 'seen', ARGV[2], 'expires', ARGV[3], 'record', ARGV[4], 'ends', ARGV[5])
if type(written) == 'table' and written.err then return written end
redis.call('PEXPIRE', KEYS[1], ARGV[6])
redis.call('SET', KEYS[2], '1', 'PX', ARGV[7])
return 1
",
    )
});

/// KEYS record, marker. ARGV seen version, version, seen, expires, record, life, ends, life of the marker, 1 when the indices know that
/// end. 1: replaced; 0: gone; 2: what is there is no session; 3: not replaced, since the indices would forget it before its new end;
/// else `{version, seen, expires, record}` of who was faster. A second run of one that was replaced says so again: the sealed record
/// is unlike any other.
pub(super) static REPLACE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
local kind = redis.call('TYPE', KEYS[1]).ok
if kind == 'none' then return 0 end
if kind ~= 'hash' then return 2 end
for _, field in ipairs({'version', 'seen', 'expires', 'record'}) do
  if redis.call('HSTRLEN', KEYS[1], field) > LIMIT then return 2 end
end
local is = redis.call('HMGET', KEYS[1], 'version', 'seen', 'expires', 'record')
if is[1] ~= ARGV[1] then
  if is[1] == ARGV[2] and is[4] == ARGV[5] then return 1 end
  return is
end
local ends = tonumber(redis.call('HGET', KEYS[1], 'ends') or '') or 0
if tonumber(ARGV[7]) > ends and ARGV[9] ~= '1' then return 3 end
local written = redis.pcall('HSET', KEYS[1],
  'version', ARGV[2], 'seen', ARGV[3], 'expires', ARGV[4], 'record', ARGV[5], 'ends', ARGV[7])
if type(written) == 'table' and written.err then return written end
redis.call('PEXPIRE', KEYS[1], ARGV[6])
if redis.call('PTTL', KEYS[2]) < tonumber(ARGV[8]) then redis.call('SET', KEYS[2], '1', 'PX', ARGV[8]) end
return 1
",
    )
});

/// KEYS record. ARGV seen, expires. Both only ever grow, the second never beyond the absolute end; the TTL grows with it.
pub(super) static TOUCH: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
if redis.call('TYPE', KEYS[1]).ok ~= 'hash' then return 0 end
local is = redis.call('HMGET', KEYS[1], 'seen', 'expires', 'ends')
local seen, expires, ends = tonumber(is[1] or ''), tonumber(is[2] or ''), tonumber(is[3] or '')
if not (seen and expires and ends) then return 0 end
if tonumber(ARGV[1]) > seen then
  local written = redis.pcall('HSET', KEYS[1], 'seen', ARGV[1])
  if type(written) == 'table' and written.err then return written end
end
local later = tonumber(ARGV[2])
local text = ARGV[2]
if later > ends then later, text = ends, is[3] end
if later > expires then
  local written = redis.pcall('HSET', KEYS[1], 'expires', text)
  if type(written) == 'table' and written.err then return written end
  redis.call('PEXPIRE', KEYS[1], string.format('%.0f', redis.call('PTTL', KEYS[1]) + later - expires))
end
return 1
",
    )
});

/// KEYS record, lease, refresh. The record as bytes, 1 when it was there and no session, 0 when it was not. The marker stays.
pub(super) static REMOVE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
local record = redis.call('EXISTS', KEYS[1])
if redis.call('TYPE', KEYS[1]).ok == 'hash' and redis.call('HSTRLEN', KEYS[1], 'record') <= LIMIT then
  record = redis.call('HGET', KEYS[1], 'record') or 1
end
local written = redis.pcall('UNLINK', KEYS[1], KEYS[2], KEYS[3])
if type(written) == 'table' and written.err then return written end
return record
",
    )
});

/// KEYS index, removals. ARGV member, its life, began. `{members, removals since began}`. The newest session is the last; an index lives as
/// long as the last of its members could. A session that is there with another end keeps its place, and the later end.
pub(super) static ENTER: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
local kind = redis.call('TYPE', KEYS[1]).ok
if kind ~= 'zset' and kind ~= 'none' then redis.call('UNLINK', KEYS[1]) end
local session, ends = string.match(ARGV[1], '^(%x+):.*:(%d+)$')
local score, earlier
for _, member in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
  local other, its = string.match(member, '^(%x+):.*:(%d+)$')
  if other == session then
    score = redis.call('ZSCORE', KEYS[1], member)
    if tonumber(its) < tonumber(ends) then earlier = member end
  end
end
if earlier or not score then
  local last = redis.call('ZREVRANGE', KEYS[1], 0, 0, 'WITHSCORES')
  local written = redis.pcall('ZADD', KEYS[1], score or (tonumber(last[2] or '') or 0) + 1, ARGV[1])
  if type(written) == 'table' and written.err then return written end
  if earlier then redis.call('ZREM', KEYS[1], earlier) end
end
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[2]) then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
local removals = {}
if redis.call('TYPE', KEYS[2]).ok == 'zset' then removals = redis.call('ZRANGEBYSCORE', KEYS[2], ARGV[3], '+inf') end
return {redis.call('ZRANGE', KEYS[1], 0, -1), removals}
",
    )
});

/// KEYS index, removals. ARGV filter, now, how long to remember. The members at this moment.
pub(super) static REVOKE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
local kind = redis.call('TYPE', KEYS[2]).ok
if kind ~= 'zset' and kind ~= 'none' then redis.call('UNLINK', KEYS[2]) end
local earlier = tonumber(redis.call('ZSCORE', KEYS[2], ARGV[1]) or '')
if not earlier or earlier < tonumber(ARGV[2]) then
  local written = redis.pcall('ZADD', KEYS[2], ARGV[2], ARGV[1])
  if type(written) == 'table' and written.err then return written end
end
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', string.format('%.0f', tonumber(ARGV[2]) - tonumber(ARGV[3])))
redis.call('PEXPIRE', KEYS[2], ARGV[3])
if redis.call('TYPE', KEYS[1]).ok ~= 'zset' then return {} end
return redis.call('ZRANGE', KEYS[1], 0, -1)
",
    )
});

/// KEYS lease, refresh, marker. ARGV owner, generation, life. 0: held; 1: granted; 2: granted, an earlier one was interrupted. What is remembered
/// of a refresh outlives its lease, and lives as long as the session can.
pub(super) static LEASE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return 0 end
local generation, owner = string.match(redis.call('GET', KEYS[2]) or '', '^(%d+):(%x+)$')
local interrupted = generation == ARGV[2] and owner ~= ARGV[1]
local life = redis.call('PTTL', KEYS[3])
if life < tonumber(ARGV[3]) then life = ARGV[3] end
local written = redis.pcall('SET', KEYS[2], ARGV[2] .. ':' .. ARGV[1], 'PX', life)
if written.err then return written end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[3])
return interrupted and 2 or 1
",
    )
});

/// KEYS lease, refresh. ARGV owner, life. 1: still ours; 0: not.
pub(super) static RENEW: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
local _, owner = string.match(redis.call('GET', KEYS[2]) or '', '^(%d+):(%x+)$')
if owner ~= ARGV[1] then return 0 end
local written = redis.pcall('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
if written.err then return written end
if redis.call('PTTL', KEYS[2]) < tonumber(ARGV[2]) then redis.call('PEXPIRE', KEYS[2], ARGV[2]) end
return 1
",
    )
});

/// KEYS lease, refresh. ARGV owner, 1 when it is resolved.
pub(super) static RELEASE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
local _, owner = string.match(redis.call('GET', KEYS[2]) or '', '^(%d+):(%x+)$')
if owner ~= ARGV[1] then return 0 end
local written = redis.pcall('DEL', KEYS[1], ARGV[2] == '1' and KEYS[2] or KEYS[1])
if type(written) == 'table' and written.err then return written end
return 1
",
    )
});

/// KEYS name. ARGV who asks, life. 1: the first; 0: not. Asked twice by the same, it answers twice the same.
pub(super) static TAKE_ONCE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
local written = redis.pcall('SET', KEYS[1], ARGV[1], 'PX', ARGV[2], 'NX')
if type(written) == 'table' and written.err then return written end
if written then return 1 end
return redis.call('TYPE', KEYS[1]).ok == 'string' and redis.call('GETRANGE', KEYS[1], 0, 64) == ARGV[1] and 1 or 0
",
    )
});

/// A session has a few kilobytes; nothing larger than this is read.
pub(super) const LARGEST_RECORD: usize = 1024 * 1024;
