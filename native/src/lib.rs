//! The C interface. `streams/native/library.py` is its only caller and states the types once more.
//!
//! Every function catches panics: a fault here becomes a Python error, not the end of the process. Pointers are Python's
//! for the time of one call. A partition is used by one thread at a time.

mod chunk;
mod columns;
mod fetch;
mod hash;
mod index;
mod join;
mod json;
mod keeping;
mod labels;
mod log;
mod maps;
mod msgpack;
mod notes;
mod plan;
mod records;
mod shape;
mod shared;
mod shelf;
mod sums;
mod table;
mod traffic;

use std::ffi::c_void;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::Arc;

use fetch::{Batch, Client, Message, Told};
use join::{Counts, Limits, Partition, Piece, Records};
use log::Shape;
use msgpack::{array, int, text};
use plan::Plan;
use sums::PaneKey;
use table::Entry;

/// Raised with every change of an interface or of the meaning of a state.
const VERSION: u32 = 5;
const FAILED: i64 = -1;

pub struct Handle {
    partition: Partition,
    out: Vec<u8>,
}

/// Records of one topic, column by column.
#[repr(C)]
pub struct Columns {
    count: usize,
    data: *const u8,
    data_len: usize,
    ends: *const u64,
    timestamps_ms: *const i64,
    marks: *const u8,
    offsets: *const i64,
    keys: *const u8,
    keys_len: usize,
    key_ends: *const u64,
}

fn guarded(work: impl FnOnce() -> Option<i64>) -> i64 {
    catch_unwind(AssertUnwindSafe(work)).ok().flatten().unwrap_or(FAILED)
}

unsafe fn bytes<'a>(at: *const u8, len: usize) -> &'a [u8] {
    if len == 0 { &[] } else { std::slice::from_raw_parts(at, len) }
}

unsafe fn slice<'a, T>(at: *const T, len: usize) -> &'a [T] {
    if len == 0 { &[] } else { std::slice::from_raw_parts(at, len) }
}

#[no_mangle]
pub extern "C" fn dl_version() -> u32 {
    VERSION
}

#[no_mangle]
pub extern "C" fn dl_entry_size() -> u32 {
    table::SIZE as u32
}

/// A partition; of a chunk and of a segment of its log it is said how large they are, and when cleaning begins.
#[no_mangle]
pub extern "C" fn dl_new(chunk_bits: u32, segment_bits: u32, slack: u64) -> *mut Handle {
    let shape = Shape { chunk_bits, segment_bits, slack };
    if chunk_bits > 15 || segment_bits < chunk_bits || segment_bits > 15 {
        return std::ptr::null_mut();
    }
    Box::into_raw(Box::new(Handle { partition: Partition::new(shape), out: Vec::new() }))
}

/// Says where chunks of the log are read: `read` gets their positions and gives their bytes to `dl_give`, with the last
/// argument as it is; 0: it did.
///
/// # Safety
/// `read` can be called as long as the partition lives.
#[no_mangle]
pub unsafe extern "C" fn dl_source(h: *mut Handle, read: extern "C" fn(*const u64, usize, *mut Vec<u8>) -> i32) {
    (*h).partition.table.source = Some(Box::new(move |bases, into| read(bases.as_ptr(), bases.len(), into) == 0));
}

/// # Safety
/// `into` is what `read` was given; `at` points to `len` bytes.
#[no_mangle]
pub unsafe extern "C" fn dl_give(into: *mut Vec<u8>, at: *const u8, len: usize) {
    (*into).extend_from_slice(bytes(at, len));
}

/// Bytes that index and entries in memory may take; what is over leaves memory now, so no batch may be open.
///
/// # Safety
/// `h` is valid.
#[no_mangle]
pub unsafe extern "C" fn dl_budget(h: *mut Handle, most: usize) -> i64 {
    let h = &mut *h;
    guarded(|| {
        h.partition.table.budget = most;
        h.partition.table.evict();
        Some(0)
    })
}

/// Bring the newest entries into memory, as far as the budget allows.
///
/// # Safety
/// `h` is valid.
#[no_mangle]
pub unsafe extern "C" fn dl_warm(h: *mut Handle) -> i64 {
    let h = &mut *h;
    guarded(|| {
        h.partition.table.warm();
        Some(0)
    })
}

/// Oldest and next position of the log, entries in memory.
///
/// # Safety
/// `out` holds three items.
#[no_mangle]
pub unsafe extern "C" fn dl_log(h: *mut Handle, out: *mut u64) {
    let table = &(*h).partition.table;
    let out = std::slice::from_raw_parts_mut(out, 3);
    out.copy_from_slice(&[table.log.tail(), table.log.head(), table.hot() as u64]);
}

/// # Safety
/// `handle` comes from `dl_new` and is not used again.
#[no_mangle]
pub unsafe extern "C" fn dl_free(handle: *mut Handle) {
    drop(Box::from_raw(handle));
}

/// # Safety
/// `at` points to `len` bytes. Null: the description is damaged.
#[no_mangle]
pub unsafe extern "C" fn dl_plan_new(at: *const u8, len: usize) -> *const Plan {
    let described = bytes(at, len);
    let plan = catch_unwind(AssertUnwindSafe(|| Plan::read(described))).ok().flatten();
    plan.map_or(std::ptr::null(), |plan| Arc::into_raw(Arc::new(plan)))
}

/// # Safety
/// `plan` comes from `dl_plan_new` and is not used again by the caller; partitions keep theirs.
#[no_mangle]
pub unsafe extern "C" fn dl_plan_free(plan: *const Plan) {
    drop(Arc::from_raw(plan));
}

/// Tell a version's plan, or with null that it is not registered. Gives the plan's number.
///
/// # Safety
/// Pointers are valid.
#[no_mangle]
pub unsafe extern "C" fn dl_know(h: *mut Handle, model: *const u8, len: usize, version: i64, plan: *const Plan) -> i64 {
    let (h, model) = (&mut *h, bytes(model, len));
    let plan = if plan.is_null() {
        None
    } else {
        Arc::increment_strong_count(plan);
        Some(Arc::from_raw(plan))
    };
    guarded(|| Some(i64::from(h.partition.know(model, version, plan))))
}

/// Give a version that came out of a checkpoint its plan.
///
/// # Safety
/// Pointers are valid.
#[no_mangle]
pub unsafe extern "C" fn dl_replace(h: *mut Handle, number: u32, plan: *const Plan) -> i64 {
    let h = &mut *h;
    Arc::increment_strong_count(plan);
    let plan = Arc::from_raw(plan);
    guarded(|| h.partition.replace(number, plan).map(|()| 0))
}

/// Number of a version's plan; −1: not known, −2: known as not registered.
///
/// # Safety
/// Pointers are valid.
#[no_mangle]
pub unsafe extern "C" fn dl_known(h: *mut Handle, model: *const u8, len: usize, version: i64) -> i64 {
    match (*h).partition.known(bytes(model, len), version) {
        Some(join::Known::Plan(number)) => i64::from(number),
        Some(join::Known::Skip) => -2,
        Some(join::Known::Elsewhere) | None => -1,
    }
}

/// Leave the predictions of a model to the reference: it is served elsewhere, where versions have other names.
///
/// # Safety
/// Pointers are valid.
#[no_mangle]
pub unsafe extern "C" fn dl_elsewhere(h: *mut Handle, model: *const u8, len: usize) {
    (*h).partition.elsewhere(bytes(model, len));
}

/// # Safety
/// `h` is valid.
#[no_mangle]
pub unsafe extern "C" fn dl_begin(h: *mut Handle, generation: u32, watermark_ms: i64, silent: u32) {
    let partition = &mut (*h).partition;
    partition.forget_skipped();
    partition.generation = generation;
    partition.watermark_ms = watermark_ms;
    partition.silent = silent != 0;
}

/// Run a kernel from record `from` on. Gives the index it stopped at; `why` the reason. An unknown version's model is in
/// the output buffer, its number in `version`.
///
/// # Safety
/// `columns` hold `count` items each and their last ends at most the bytes they are of; offsets and
/// keys may be null.
#[no_mangle]
pub unsafe extern "C" fn dl_run(
    h: *mut Handle, labels: u32, columns: *const Columns, from: usize, limits: *const i64, why: *mut u32, version: *mut i64,
) -> i64 {
    let (h, c) = (&mut *h, &*columns);
    let with_keys = if c.offsets.is_null() { 0 } else { c.count };
    let records = Piece {
        data: bytes(c.data, c.data_len),
        ends: slice(c.ends, c.count),
        timestamps_ms: slice(c.timestamps_ms, c.count),
        marks: bytes(c.marks, c.count),
        offsets: slice(c.offsets, with_keys),
        keys: bytes(c.keys, c.keys_len),
        key_ends: slice(c.key_ends, with_keys),
    };
    run(h, labels, &records, from, slice(limits, 4), &mut *why, &mut *version)
}

/// As `dl_run`, over what was fetched.
///
/// # Safety
/// `batch` comes from `dl_batch_new`, its messages have not been given back.
#[no_mangle]
pub unsafe extern "C" fn dl_run_batch(
    h: *mut Handle, labels: u32, batch: *const Batch, from: usize, limits: *const i64, why: *mut u32, version: *mut i64,
) -> i64 {
    run(&mut *h, labels, &*batch, from, slice(limits, 4), &mut *why, &mut *version)
}

fn run(
    h: &mut Handle, labels: u32, records: &impl Records, from: usize, l: &[i64], why: &mut u32, version: &mut i64,
) -> i64 {
    let limits = Limits { future_ms: l[0], horizon_ms: l[1], now_ms: l[2], most_bytes: l[3] as usize };
    guarded(|| {
        let partition = &mut h.partition;
        if from == 0 {
            partition.expect(records);
        }
        let (at, reason) = if labels == 0 {
            partition.run_predictions(records, from, &limits)
        } else {
            partition.run_labels(records, from, &limits)
        };
        *why = reason;
        if reason == join::UNKNOWN_VERSION {
            h.out.clear();
            h.out.extend_from_slice(&partition.asked.0);
            *version = partition.asked.1;
        }
        Some(at as i64)
    })
}

/// # Safety
/// `client` holds the functions of `fetch::Client`, which stay loaded.
#[no_mangle]
pub unsafe extern "C" fn dl_batch_new(client: *const Client) -> *mut Batch {
    Box::into_raw(Box::new(Batch::new(*client)))
}

/// # Safety
/// `batch` comes from `dl_batch_new` and is not used again.
#[no_mangle]
pub unsafe extern "C" fn dl_batch_free(batch: *mut Batch) {
    drop(Box::from_raw(batch));
}

/// # Safety
/// `queue` is one of the client's; `told` holds one item.
#[no_mangle]
pub unsafe extern "C" fn dl_batch_read(batch: *mut Batch, queue: *mut c_void, most: usize, told: *mut Told) -> i64 {
    let (batch, told) = (&mut *batch, &mut *told);
    guarded(|| {
        batch.read(queue, most, told);
        Some(0)
    })
}

/// Take the messages from `at` on into a batch of their own.
///
/// # Safety
/// `at` is at most the number of messages.
#[no_mangle]
pub unsafe extern "C" fn dl_batch_split(batch: *mut Batch, at: usize) -> *mut Batch {
    Box::into_raw(Box::new((*batch).split_off(at)))
}

/// # Safety
/// `at` is below the number of messages.
#[no_mangle]
pub unsafe extern "C" fn dl_batch_message(batch: *const Batch, at: usize) -> *const Message {
    (*batch).message(at)
}

/// # Safety
/// `at` is below the number of messages.
#[no_mangle]
pub unsafe extern "C" fn dl_batch_timestamp(batch: *const Batch, at: usize) -> i64 {
    (*batch).timestamp_ms(at)
}

/// Text of the last error; its length is in `len`.
///
/// # Safety
/// Pointers are valid.
#[no_mangle]
pub unsafe extern "C" fn dl_batch_error(batch: *const Batch, len: *mut usize) -> *const u8 {
    let batch = &*batch;
    *len = batch.error.len();
    batch.error.as_ptr()
}

/// # Safety
/// `h` is valid.
#[no_mangle]
pub unsafe extern "C" fn dl_advance(h: *mut Handle, watermark_ms: i64) -> i64 {
    let h = &mut *h;
    guarded(|| {
        h.partition.advance(watermark_ms);
        Some(0)
    })
}

/// Count a column of finite numbers; `numbers` are low, high, mean, unit and the edges. -1: sizes do not fit.
///
/// # Safety
/// Pointers of every column hold as many items as is said; nobody else uses an `out` meanwhile.
#[no_mangle]
pub unsafe extern "C" fn dl_count_columns(columns: *const columns::Column, n: usize) -> i64 {
    guarded(|| columns::count_all(std::slice::from_raw_parts(columns, n)).map(|()| 0))
}

/// # Safety
/// `out` holds one `Counts`.
#[no_mangle]
pub unsafe extern "C" fn dl_counts(h: *mut Handle, out: *mut Counts) {
    *out = (*h).partition.counts;
}

/// Add what the reference counted.
///
/// # Safety
/// `positions` and `counts` hold `n` items.
#[no_mangle]
pub unsafe extern "C" fn dl_add(
    h: *mut Handle, plan: u32, segment: *const u8, len: usize, pane_ms: i64, effect_ms: i64, positions: *const u32,
    counts: *const i64, n: usize,
) -> i64 {
    let (h, segment) = (&mut *h, bytes(segment, len));
    let (positions, counts) = (slice(positions, n), slice(counts, n));
    guarded(|| {
        let partition = &mut h.partition;
        let segment = partition.texts.put(segment)?;
        let pane = partition.sums.pane(PaneKey { plan, segment, pane_ms, effect_ms });
        for (position, count) in positions.iter().zip(counts) {
            partition.sums.add(pane, *position, *count);
        }
        Some(0)
    })
}

/// What the batch contributed, as records of `joined-deltas`: each its target partition (u32), length (u32) and bytes.
///
/// # Safety
/// `h` is valid; the bytes (see `dl_out`) stand until the next call.
#[no_mangle]
pub unsafe extern "C" fn dl_records(h: *mut Handle, from: i64, targets: u32) -> i64 {
    let h = &mut *h;
    guarded(|| {
        let Handle { partition, out } = h;
        out.clear();
        records::write(partition, from, targets, out);
        Some(out.len() as i64)
    })
}

/// Changes of live entries by generation, as pairs of i64.
///
/// # Safety
/// `h` is valid.
#[no_mangle]
pub unsafe extern "C" fn dl_live(h: *mut Handle) -> i64 {
    let h = &mut *h;
    guarded(|| {
        h.out.clear();
        for (generation, change) in &h.partition.live {
            h.out.extend_from_slice(&i64::from(*generation).to_le_bytes());
            h.out.extend_from_slice(&change.to_le_bytes());
        }
        Some(h.out.len() as i64)
    })
}

/// Texts, segment lists and versions from the given numbers on, as msgpack.
///
/// # Safety
/// `h` is valid.
#[no_mangle]
pub unsafe extern "C" fn dl_symbols(h: *mut Handle, texts: usize, segments: usize, versions: usize) -> i64 {
    let h = &mut *h;
    guarded(|| {
        let Handle { partition, out } = h;
        out.clear();
        array(3, out);
        let new = partition.texts.items.get(texts..)?;
        array(new.len(), out);
        new.iter().for_each(|item| text(item, out));
        let new = partition.segments.items.get(segments..)?;
        array(new.len(), out);
        for list in new {
            array(list.len(), out);
            list.iter().for_each(|item| int(i64::from(*item), out));
        }
        let new = partition.plan_names.get(versions..)?;
        array(new.len(), out);
        for (model, version) in new {
            array(2, out);
            text(model, out);
            int(*version, out);
        }
        Some(out.len() as i64)
    })
}

/// Intern a text; gives its number.
///
/// # Safety
/// Pointers are valid.
#[no_mangle]
pub unsafe extern "C" fn dl_text(h: *mut Handle, at: *const u8, len: usize) -> i64 {
    let (h, item) = (&mut *h, bytes(at, len));
    guarded(|| h.partition.texts.put(item).map(i64::from))
}

/// Intern a list of texts by their numbers; gives its number.
///
/// # Safety
/// `at` holds `len` items.
#[no_mangle]
pub unsafe extern "C" fn dl_segments(h: *mut Handle, at: *const u32, len: usize) -> i64 {
    let (h, list) = (&mut *h, slice(at, len));
    guarded(|| h.partition.segments.put(list).map(i64::from))
}

/// Copy the entry of an id and its note to the output buffer; gives their length, 0 where there is none.
///
/// # Safety
/// Pointers are valid.
#[no_mangle]
pub unsafe extern "C" fn dl_get(h: *mut Handle, id: *const u8, len: usize) -> i64 {
    let (h, id) = (&mut *h, bytes(id, len));
    guarded(|| {
        let hashed = hash::id(id);
        h.out.clear();
        if let Some(slot) = h.partition.table.find([(hashed >> 64) as u64, hashed as u64]) {
            h.out.extend_from_slice(h.partition.table.at(slot).bytes());
            h.out.extend_from_slice(h.partition.table.notes.get(slot));
        }
        Some(h.out.len() as i64)
    })
}

/// # Safety
/// Pointers are valid.
#[no_mangle]
pub unsafe extern "C" fn dl_set_odd(h: *mut Handle, id: *const u8, len: usize) -> i64 {
    let (h, id) = (&mut *h, bytes(id, len));
    guarded(|| {
        h.partition.set_odd(id);
        Some(0)
    })
}

/// # Safety
/// Pointers are valid.
#[no_mangle]
pub unsafe extern "C" fn dl_drop_odd(h: *mut Handle, id: *const u8, len: usize) -> i64 {
    let (h, id) = (&mut *h, bytes(id, len));
    guarded(|| {
        h.partition.drop_odd(id);
        Some(0)
    })
}

/// # Safety
/// `entry` points to `size` bytes: one entry's and those of its note.
#[no_mangle]
pub unsafe extern "C" fn dl_put(h: *mut Handle, id: *const u8, len: usize, entry: *const u8, size: usize) -> i64 {
    let (h, id, entry) = (&mut *h, bytes(id, len), bytes(entry, size));
    guarded(|| {
        let entry = (entry.len() >= table::SIZE).then(|| entry.split_at(table::SIZE))?;
        h.partition.put(id, Entry::from_bytes(entry.0), entry.1);
        Some(0)
    })
}

/// Which records began to wait without their headers, which the caller has: slot and number of each as u32, to be
/// answered with `dl_headers`. Asking forgets them.
///
/// # Safety
/// `h` is valid.
#[no_mangle]
pub unsafe extern "C" fn dl_bare(h: *mut Handle) -> i64 {
    let h = &mut *h;
    guarded(|| {
        h.out.clear();
        for (slot, record) in h.partition.bare.drain(..) {
            h.out.extend_from_slice(&slot.to_le_bytes());
            h.out.extend_from_slice(&record.to_le_bytes());
        }
        Some(h.out.len() as i64)
    })
}

/// # Safety
/// Pointers are valid.
#[no_mangle]
pub unsafe extern "C" fn dl_headers(h: *mut Handle, slot: u32, at: *const u8, len: usize) -> i64 {
    let (h, headers) = (&mut *h, bytes(at, len));
    guarded(|| {
        h.partition.add_headers(slot, headers);
        Some(0)
    })
}

/// # Safety
/// `h` is valid; the changes are in the output buffer.
#[no_mangle]
pub unsafe extern "C" fn dl_commit(h: *mut Handle) -> i64 {
    let h = &mut *h;
    guarded(|| {
        h.out.clear();
        h.partition.commit(&mut h.out);
        Some(h.out.len() as i64)
    })
}

/// # Safety
/// `h` is valid.
#[no_mangle]
pub unsafe extern "C" fn dl_abort(h: *mut Handle) -> i64 {
    let h = &mut *h;
    guarded(|| {
        h.partition.abort();
        Some(0)
    })
}

/// Take in chunks of the log, the oldest first.
///
/// # Safety
/// `bases` holds `count` items: the positions of the chunks whose bytes stand at `at`.
#[no_mangle]
pub unsafe extern "C" fn dl_load(h: *mut Handle, bases: *const u64, count: usize, at: *const u8, len: usize) -> i64 {
    let (h, bases, chunks) = (&mut *h, slice(bases, count), bytes(at, len));
    guarded(|| h.partition.load(bases, chunks).map(|()| 0))
}

/// The ordinary entries of one segment of the log, as one chunk, into the output buffer. Gives the position of the next.
///
/// # Safety
/// `h` is valid.
#[no_mangle]
pub unsafe extern "C" fn dl_export(h: *mut Handle, from: u64) -> i64 {
    let h = &mut *h;
    guarded(|| {
        let Handle { partition, out } = h;
        let mut found = chunk::Builder::default();
        partition.table.export(from, |entry, note| found.add(entry, note));
        out.clear();
        found.write(out);
        i64::try_from(from + partition.table.log.segment_size()).ok()
    })
}

/// # Safety
/// `h` is valid.
#[no_mangle]
pub unsafe extern "C" fn dl_out(h: *mut Handle) -> *const u8 {
    (*h).out.as_ptr()
}

/// # Safety
/// `h` is valid.
#[no_mangle]
pub unsafe extern "C" fn dl_out_len(h: *mut Handle) -> usize {
    (*h).out.len()
}

/// Entries, those that the reference holds included.
///
/// # Safety
/// `h` is valid.
#[no_mangle]
pub unsafe extern "C" fn dl_len(h: *mut Handle) -> usize {
    (*h).partition.table.len()
}

/// Bytes that the entries take.
///
/// # Safety
/// `h` is valid.
#[no_mangle]
pub unsafe extern "C" fn dl_memory(h: *mut Handle) -> usize {
    (*h).partition.table.memory()
}

/// Hash of an id, 16 bytes.
///
/// # Safety
/// Pointers are valid; `out` holds two items.
#[no_mangle]
pub unsafe extern "C" fn dl_id(at: *const u8, len: usize, out: *mut u64) {
    let id = hash::id(bytes(at, len));
    *out = (id >> 64) as u64;
    *out.add(1) = id as u64;
}

/// # Safety
/// Pointers are valid.
#[no_mangle]
pub unsafe extern "C" fn dl_payload(at: *const u8, len: usize) -> u64 {
    hash::payload(bytes(at, len))
}

pub struct ShelfHandle {
    shelf: shelf::Shelf,
    out: Vec<u8>,
}

#[no_mangle]
pub extern "C" fn dl_shelf_new() -> *mut ShelfHandle {
    Box::into_raw(Box::new(ShelfHandle { shelf: shelf::Shelf::default(), out: Vec::new() }))
}

/// # Safety
/// `h` comes from `dl_shelf_new` and is not used again.
#[no_mangle]
pub unsafe extern "C" fn dl_shelf_free(h: *mut ShelfHandle) {
    drop(Box::from_raw(h));
}

/// # Safety
/// `h` is valid.
#[no_mangle]
pub unsafe extern "C" fn dl_shelf_out(h: *mut ShelfHandle) -> *const u8 {
    (*h).out.as_ptr()
}

/// # Safety
/// `h` is valid.
#[no_mangle]
pub unsafe extern "C" fn dl_shelf_out_len(h: *mut ShelfHandle) -> usize {
    (*h).out.len()
}

/// Take a record in from byte `from` on; gives the byte it stopped at, `why` the reason. The output buffer then holds
/// the delta that stands there, or, when all is done, series with news and those whose first effect is earlier now: how
/// many have news (u32), these, then the others.
///
/// # Safety
/// Pointers are valid.
#[no_mangle]
pub unsafe extern "C" fn dl_shelf_merge(h: *mut ShelfHandle, at: *const u8, len: usize, from: usize, why: *mut u32) -> i64 {
    let (h, record) = (&mut *h, bytes(at, len));
    guarded(|| {
        let ShelfHandle { shelf, out } = h;
        let (stopped, reason) = shelf.merge(record, from);
        *why = reason;
        out.clear();
        if reason == shelf::ASK {
            out.extend_from_slice(shelf::about(record, stopped)?);
        } else if reason == shelf::ALL_DONE {
            out.extend_from_slice(&(shelf.news.len() as u32).to_le_bytes());
            for number in shelf.news.drain(..).chain(shelf.earlier.drain(..)) {
                out.extend_from_slice(&number.to_le_bytes());
            }
        }
        Some(stopped as i64)
    })
}

/// Know a series or give it another layout; gives its number. `frontier_ms` i64::MIN: none.
///
/// # Safety
/// Pointers are valid.
#[no_mangle]
pub unsafe extern "C" fn dl_shelf_open(
    h: *mut ShelfHandle, model: *const u8, model_len: usize, version: i64, layout: *const u8, layout_len: usize, frontier_ms: i64,
) -> i64 {
    let (h, model, layout) = (&mut *h, bytes(model, model_len), bytes(layout, layout_len));
    let frontier_ms = (frontier_ms != i64::MIN).then_some(frontier_ms);
    guarded(|| Some(i64::from(h.shelf.open(model, version, layout, frontier_ms))))
}

/// # Safety
/// Pointers are valid.
#[no_mangle]
pub unsafe extern "C" fn dl_shelf_add(
    h: *mut ShelfHandle, number: u32, effect_ms: i64, segment: *const u8, len: usize, pane_ms: i64, counters: *const u8,
    counters_len: usize,
) -> i64 {
    let (h, segment, counters) = (&mut *h, bytes(segment, len), bytes(counters, counters_len));
    guarded(|| {
        h.shelf.add(number, (effect_ms, segment, pane_ms), counters);
        Some(0)
    })
}

/// Effect of what waits first; i64::MAX: nothing waits.
///
/// # Safety
/// `h` is valid.
#[no_mangle]
pub unsafe extern "C" fn dl_shelf_first(h: *mut ShelfHandle, number: u32) -> i64 {
    (*h).shelf.first(number).unwrap_or(i64::MAX)
}

/// What waits with an effect before `before_ms` into the output buffer, as msgpack; `settle`: it waits no longer.
///
/// # Safety
/// `h` is valid.
#[no_mangle]
pub unsafe extern "C" fn dl_shelf_read(h: *mut ShelfHandle, number: u32, before_ms: i64, settle: u32) -> i64 {
    let h = &mut *h;
    guarded(|| {
        h.out.clear();
        h.shelf.write(number, before_ms, &mut h.out)?;
        if settle != 0 {
            h.shelf.settle(number, before_ms)?;
        }
        Some(h.out.len() as i64)
    })
}

/// # Safety
/// `h` is valid.
#[no_mangle]
pub unsafe extern "C" fn dl_shelf_remove(h: *mut ShelfHandle, number: u32) -> i64 {
    let h = &mut *h;
    guarded(|| h.shelf.remove(number).map(|()| 0))
}

/// Ask about every delta of a series (`held` not 0), or no longer.
///
/// # Safety
/// `h` is valid.
#[no_mangle]
pub unsafe extern "C" fn dl_shelf_hold(h: *mut ShelfHandle, number: u32, held: u32) {
    (*h).shelf.hold(number, held != 0);
}

/// The news of a series were asked for.
///
/// # Safety
/// `h` is valid.
#[no_mangle]
pub unsafe extern "C" fn dl_shelf_asked(h: *mut ShelfHandle, number: u32) {
    (*h).shelf.asked(number);
}

/// # Safety
/// `h` is valid. `step` 0: begin, 1: commit, 2: abort.
#[no_mangle]
pub unsafe extern "C" fn dl_shelf_batch(h: *mut ShelfHandle, step: u32) -> i64 {
    let h = &mut *h;
    guarded(|| {
        match step {
            0 => h.shelf.begin(),
            1 => h.shelf.commit(),
            _ => h.shelf.abort(),
        }
        Some(0)
    })
}

/// # Safety
/// `h` is valid.
#[no_mangle]
pub unsafe extern "C" fn dl_shelf_memory(h: *mut ShelfHandle) -> usize {
    (*h).shelf.memory()
}
