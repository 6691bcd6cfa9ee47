//! How much memory decoding takes: this program counts what is allocated, so it holds this one test.
#![allow(
    missing_docs,
    unsafe_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic
)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use petrel::wire::state::{State, albatross};
use petrel::wire::{CertExtension, Message};

/// Bytes in use, and the most there were.
static USED: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

/// The system's allocator, counting.
struct Counting;

// SAFETY: every call goes to the system's allocator unchanged; counting touches no memory of the allocation.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let used = USED.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(used, Ordering::Relaxed);
        // SAFETY: the caller keeps the conditions of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        USED.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: `place` came from `alloc` above with this layout.
        unsafe { System.dealloc(place, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The most memory decoding `bytes` as anything takes, and whether they are something.
fn peak(bytes: &[u8]) -> (usize, bool) {
    let before = USED.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    let accepted = [
        Message::decode(bytes).is_ok(),
        CertExtension::decode(bytes).is_ok(),
        State::decode(bytes).is_ok(),
        albatross::State::decode(bytes).is_ok(),
    ];
    let accepted = accepted.contains(&true);
    (PEAK.load(Ordering::Relaxed) - before, accepted)
}

fn length(length: usize) -> Vec<u8> {
    if length < 0x80 {
        return vec![u8::try_from(length).unwrap()];
    }
    let bytes: Vec<u8> = length
        .to_be_bytes()
        .into_iter()
        .skip_while(|byte| *byte == 0)
        .collect();
    [&[0x80 | u8::try_from(bytes.len()).unwrap()], &bytes[..]].concat()
}

fn element(identifier: u8, content: &[u8]) -> Vec<u8> {
    [&[identifier], &length(content.len())[..], content].concat()
}

/// A message whose payload has these explicit tags around `content`.
fn message(tags: &[u8], content: Vec<u8>) -> Vec<u8> {
    let header = element(0x30, b"\x02\x01\x05\x04\x08\0\0\0\0\0\0\0\0\x0c\x01:");
    let payload = tags
        .iter()
        .rev()
        .fold(content, |inner, tag| element(0xa0 | tag, &inner));
    element(0x30, &[header, payload].concat())
}

#[test]
fn decoding_takes_memory_for_what_is_there_not_for_what_is_announced() {
    // Every element of a message, and of states, in turn announces far more than follows.
    let image = element(0x30, &[element(1, &[0xff]), element(4, b"image")].concat());
    let extension = element(0x30, b"\x02\x01\x05\xa3\x04\xb3\x02\x05\0");
    let unikernel = |name: &[u8]| {
        element(
            0x30,
            &[element(0x0c, name), element(0x30, CONFIG_V4)].concat(),
        )
    };
    let state = |tag, unikernels: Vec<u8>| {
        let lists = [element(0x30, &unikernels), element(0x30, b"")].concat();
        element(tag, &element(0x30, &lists))
    };
    let honest = [
        message(&[1, 6], image),
        extension,
        state(0xa5, unikernel(b"foo:x")),
    ];
    for honest in honest {
        announce_more(&honest);
    }

    // The smallest elements of every kind of list, as many as fit into a frame.
    let count = 1 << 15;
    let many = |item: &[u8]| element(0x30, &item.repeat(count));
    let text = element(0x0c, b"");
    let int = element(2, &[1]);
    let unikernels: Vec<u8> = (0..count >> 3)
        .flat_map(|number| unikernel(format!("{number:x}").as_bytes()))
        .collect();
    let named_policy = element(
        0x30,
        &[
            text.clone(),
            element(
                0x30,
                &[
                    element(0x30, b""),
                    int.clone(),
                    int.clone(),
                    element(0x30, b""),
                ]
                .concat(),
            ),
        ]
        .concat(),
    );
    let tap = element(0x30, &[text.clone(), text.clone()].concat());
    let crowds = [
        message(&[1, 12], many(&text)),
        message(&[1, 2], many(&named_policy)),
        message(
            &[0, 1, 0],
            element(0x30, &[text.clone(), int.clone(), many(&tap)].concat()),
        ),
        state(0xa5, unikernels),
        // A large image in an older form.
        element(
            0xa5,
            &element(
                0x30,
                &[element(0x30, &large_unikernel()), element(0x30, b"")].concat(),
            ),
        ),
        // The same name again and again.
        state(0xa5, unikernel(b"foo:x").repeat(count >> 3)),
        message(&[1, 12], vec![0x30; count]),
        message(&[0; 100], element(5, b"")),
        vec![0x30; count],
        element(0x30, &vec![0xa0; count]),
    ];
    for crowd in crowds {
        let (peak, accepted) = peak(&crowd);
        let ratio = peak / crowd.len();
        eprintln!(
            "{} bytes, accepted: {accepted}, at most {peak} in use: {ratio} times",
            crowd.len()
        );
        assert!(ratio < 64, "{ratio} times the message's own size");
    }
}

/// A unikernel of a state file, fourth form, but for the identifier and length bytes around.
const CONFIG_V4: &[u8] =
    b"\xa0\x02\x05\0\x01\x01\0\x04\x01x\x01\x01\xff\xa0\x02\x05\0\x02\x01\0\x02\x01\x20";

fn large_unikernel() -> Vec<u8> {
    let image = element(4, &vec![7; 1 << 20]);
    let rest = &CONFIG_V4[10..];
    let config = [&CONFIG_V4[..7], &image, rest].concat();
    element(
        0x30,
        &[element(0x0c, b"foo:x"), element(0x30, &config)].concat(),
    )
}

fn announce_more(honest: &[u8]) {
    assert!(peak(honest).1);
    let mut announced = 0;
    for at in 1..honest.len() {
        if usize::from(honest[at]) != honest.len() - at - 1 && honest[at] > 40 {
            continue;
        }
        for lie in [
            &[0x84, 0x7f, 0xff, 0xff, 0xff][..],
            &[0x88, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
            &[0x83, 0xff, 0xff, 0xff],
        ] {
            let lying = [&honest[..at], lie, &honest[at + 1..]].concat();
            let (peak, accepted) = peak(&lying);
            assert!(!accepted);
            assert!(peak < 1 << 16, "{peak} bytes for a lie at {at}");
            announced += 1;
        }
    }
    assert!(announced > 10);
}
