//! Messages of librdkafka as they lie in its buffers: read in batches, looked at in place, given back together.
//!
//! The functions come from the library that the Python client brought along; the message layout is that of its public
//! header (rdkafka.h, `rd_kafka_message_t`), which has not changed since 0.8.

use std::ffi::{c_char, c_int, c_void};

use crate::join::{Records, HAS_HEADERS, NO_KEY, ODD_RECORD};
use crate::notes;

const PARTITION_EOF: i32 = -191;

#[repr(C)]
pub struct Message {
    pub err: i32,
    pub topic: *mut c_void,
    pub partition: i32,
    pub payload: *const u8,
    pub len: usize,
    pub key: *const u8,
    pub key_len: usize,
    pub offset: i64,
    private: *mut c_void,
}

/// What is used of the library; Python fills it in.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Client {
    consume_batch: unsafe extern "C" fn(*mut c_void, c_int, *mut *mut Message, usize) -> isize,
    timestamp: unsafe extern "C" fn(*const Message, *mut c_int) -> i64,
    headers: unsafe extern "C" fn(*const Message, *mut *mut c_void) -> c_int,
    header: unsafe extern "C" fn(*const c_void, usize, *const c_char, *mut *const u8, *mut usize) -> c_int,
    destroy: unsafe extern "C" fn(*mut Message),
}

/// What one read brought.
#[repr(C)]
pub struct Told {
    pub count: i64,
    /// Of the newest message.
    pub offset: i64,
    pub timestamp_ms: i64,
    /// The end of the partition, where it was told behind everything else; −1: not.
    pub end: i64,
    /// Of the first error, which ends the read; its text is in the batch. 0: none.
    pub error: i64,
    pub error_offset: i64,
}

/// Messages of one partition, in the log's order.
pub struct Batch {
    client: Client,
    room: Vec<*mut Message>,
    messages: Vec<*mut Message>,
    timestamps_ms: Vec<i64>,
    marks: Vec<u8>,
    pub error: Vec<u8>,
}

impl Batch {
    pub fn new(client: Client) -> Batch {
        Batch {
            client, room: Vec::new(), messages: Vec::new(), timestamps_ms: Vec::new(), marks: Vec::new(), error: Vec::new(),
        }
    }

    /// Read what a queue holds, at most `most`, without waiting.
    ///
    /// # Safety
    /// `queue` is one of the client's, and this partition's alone.
    pub unsafe fn read(&mut self, queue: *mut c_void, most: usize, told: &mut Told) {
        *told = Told { count: 0, offset: -1, timestamp_ms: 0, end: -1, error: 0, error_offset: -1 };
        self.room.resize(most, std::ptr::null_mut());
        let found = (self.client.consume_batch)(queue, 0, self.room.as_mut_ptr(), most);
        for index in 0..usize::try_from(found).unwrap_or(0) {
            let at = self.room[index];
            let message = &*at;
            if message.err == 0 {
                told.end = -1;
                self.take(at, told);
                continue;
            }
            if message.err == PARTITION_EOF {
                told.end = message.offset;
            } else if told.error == 0 {
                (told.error, told.error_offset) = (i64::from(message.err), message.offset);
                self.error = payload(message).unwrap_or_default().to_vec();
            }
            (self.client.destroy)(at);
        }
    }

    unsafe fn take(&mut self, at: *mut Message, told: &mut Told) {
        let message = &*at;
        let mut kind = 0;
        // −1 where the message has none, as for the kernels everything below 1.
        let timestamp_ms = (self.client.timestamp)(at, &mut kind);
        let mut mark = 0;
        if message.payload.is_null() {
            mark |= ODD_RECORD;
        }
        if message.key.is_null() {
            mark |= NO_KEY;
        }
        let mut headers = std::ptr::null_mut();
        if (self.client.headers)(at, &mut headers) == 0 && !headers.is_null() {
            mark |= HAS_HEADERS;
            if self.heartbeat(headers) {
                mark |= ODD_RECORD;
            }
        }
        self.messages.push(at);
        self.timestamps_ms.push(timestamp_ms.max(0));
        self.marks.push(mark);
        told.count += 1;
        (told.offset, told.timestamp_ms) = (message.offset, timestamp_ms.max(0));
    }

    unsafe fn heartbeat(&self, headers: *const c_void) -> bool {
        let (mut value, mut size) = (std::ptr::null(), 0);
        for index in 0.. {
            if (self.client.header)(headers, index, c"ce_type".as_ptr(), &mut value, &mut size) != 0 {
                break;
            }
            if !value.is_null() && std::slice::from_raw_parts(value, size) == b"Heartbeat" {
                return true;
            }
        }
        false
    }

    pub fn message(&self, at: usize) -> &Message {
        // Sound: it was not destroyed, or it would not be here.
        unsafe { &*self.messages[at] }
    }

    /// Messages from `at` on, as a batch of their own.
    pub fn split_off(&mut self, at: usize) -> Batch {
        let mut rest = Batch::new(self.client);
        rest.messages = self.messages.split_off(at);
        rest.timestamps_ms = self.timestamps_ms.split_off(at);
        rest.marks = self.marks.split_off(at);
        rest
    }

    pub fn clear(&mut self) {
        for message in self.messages.drain(..) {
            unsafe { (self.client.destroy)(message) }
        }
        self.timestamps_ms.clear();
        self.marks.clear();
    }
}

impl Records for Batch {
    fn len(&self) -> usize {
        self.messages.len()
    }

    fn value(&self, at: usize) -> &[u8] {
        payload(self.message(at)).unwrap_or_default()
    }

    fn timestamp_ms(&self, at: usize) -> i64 {
        self.timestamps_ms[at]
    }

    fn mark(&self, at: usize) -> u8 {
        self.marks[at]
    }

    fn complete(&self) -> bool {
        true
    }

    fn note(&self, at: usize) -> Box<[u8]> {
        let message = self.message(at);
        // Sound: the library says so.
        let key = (!message.key.is_null()).then(|| unsafe { std::slice::from_raw_parts(message.key, message.key_len) });
        notes::note(message.offset, self.timestamps_ms[at], key, self.value(at))
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        self.clear();
    }
}

fn payload(message: &Message) -> Option<&[u8]> {
    // Sound: the library says so.
    (!message.payload.is_null()).then(|| unsafe { std::slice::from_raw_parts(message.payload, message.len) })
}
