//! Group 6: text that is valid UTF-8 is repeated as it is, and any other text ends the session with 1007.

use super::{Case, Steps, TEXT};
use super::{fragments, frame, heartbeat, text};

/// Close code for text that is not UTF-8.
const INVALID_UTF8: u16 = 1007;

/// A word in two-byte and three-byte characters.
const WORD: &[u8] = "κόσμε".as_bytes();

pub(super) fn cases() -> Vec<Case> {
    let mut cases = fragmented();
    cases.extend(fail_fast());
    cases.extend(prefixes());
    let tables = [VALID, INVALID];
    for (number, bytes) in tables.into_iter().flatten() {
        cases.push(single(number, bytes));
    }
    cases.extend(lonely_starts());
    cases.extend(non_characters());
    cases
}

/// A case with one unfragmented message.
fn single(number: &str, bytes: &[u8]) -> Case {
    let steps = Steps::default().send(text(heartbeat(bytes)));
    match str::from_utf8(bytes) {
        // JSON requires that a control character is escaped.
        Ok("\0") => steps.closed(number, 4400),
        Ok(reference) => steps.reply(reference).served(number),
        Err(_) => steps.closed(number, INVALID_UTF8),
    }
}

/// Groups 6.1 to 6.3: empty fragments, and fragments that end within a character.
fn fragmented() -> Vec<Case> {
    let greeting = "Hello-µ@ßöäüàá-UTF-8!!";
    let invalid = [WORD, b"\xed\xa0\x80edited"].concat();
    let message = heartbeat(greeting);
    let bytewise = |reference: &[u8]| {
        let message = heartbeat(reference);
        Steps::default().send(fragments(TEXT, message.chunks(1)).concat())
    };
    let text_of_message = str::from_utf8(&message).expect("UTF-8");
    let boundary = text_of_message.find('ö').expect("is in it");
    let of = |parts: [&[u8]; 3]| Steps::default().send(fragments(TEXT, parts).concat());
    vec![
        Steps::default().send(text("")).closed("6.1.1", 4400),
        of([b"", b"", b""]).closed("6.1.2", 4400),
        of([b"", &heartbeat("middle"), b""]).reply("middle").served("6.1.3"),
        Steps::default().send(text(&message)).reply(greeting).served("6.2.1"),
        Steps::default()
            .send(fragments(TEXT, [&message[..boundary], &message[boundary..]]).concat())
            .reply(greeting)
            .served("6.2.2"),
        bytewise(greeting.as_bytes()).reply(greeting).served("6.2.3"),
        bytewise(WORD).reply("κόσμε").served("6.2.4"),
        Steps::default().send(text(heartbeat(&invalid))).closed("6.3.1", INVALID_UTF8),
        bytewise(&invalid).closed("6.3.2", INVALID_UTF8),
    ]
}

/// Group 6.4: the session ends at the fragment with the invalid character, before the last one. Within a
/// fragment it ends at the end of the frame.
fn fail_fast() -> Vec<Case> {
    let [valid, invalid, rest] = [WORD, b"\xf4\x90\x80\x80", b"edited"];
    let whole = [valid, invalid, rest].concat();
    let at = valid.len();
    let in_frames = |parts: [&[u8]; 2]| {
        let [first, second] = [frame(TEXT, parts[0]), frame(0, parts[1])];
        Steps::default().send(first).send(second)
    };
    let in_pieces = |at: usize| {
        let bytes = text(&whole);
        let at = bytes.len() - whole.len() + at;
        Steps::default().send(&bytes[..at]).send(&bytes[at..])
    };
    vec![
        in_frames([valid, invalid]).closed("6.4.1", INVALID_UTF8),
        in_frames([&whole[..at + 1], &whole[at + 1..at + 2]]).closed("6.4.2", INVALID_UTF8),
        in_pieces(at + 4).closed("6.4.3", INVALID_UTF8),
        in_pieces(at + 2).closed("6.4.4", INVALID_UTF8),
    ]
}

/// Groups 6.5 and 6.6: every beginning of a word. Those that end within a character are invalid.
fn prefixes() -> Vec<Case> {
    let greeting = "Hello-µ@ßöäüàá-UTF-8!!";
    let mut cases: Vec<Case> = [1, 5, 10, 15, 20]
        .into_iter()
        .enumerate()
        .map(|(n, at)| {
            let message = heartbeat(greeting);
            let bytes = text(&message);
            Steps::default().chopped(bytes, at).reply(greeting).served(&format!("6.5.{}", n + 1))
        })
        .collect();
    cases.extend((1..=WORD.len()).map(|end| single(&format!("6.6.{end}"), &WORD[..end])));
    cases
}

/// Case 6.13: every byte that begins a longer character, each with a space behind it.
fn lonely_starts() -> Vec<Case> {
    let ranges = [0xc0..=0xdf_u8, 0xe0..=0xef, 0xf0..=0xf7, 0xf8..=0xfb, 0xfc..=0xfd];
    let bytes = ranges.map(|starts| starts.flat_map(|start| [start, b' ']).collect::<Vec<u8>>());
    bytes.iter().enumerate().map(|(n, bytes)| single(&format!("6.13.{}", n + 1), bytes)).collect()
}

/// Case 6.22: the last two code points of each plane, which are valid although they are no characters.
fn non_characters() -> Vec<Case> {
    (0..=0x10_u32)
        .flat_map(|plane| [plane << 16 | 0xfffe, plane << 16 | 0xffff])
        .enumerate()
        .map(|(n, code)| {
            let character = char::from_u32(code).expect("a code point");
            single(&format!("6.22.{}", n + 1), character.to_string().as_bytes())
        })
        .collect()
}

/// Boundaries of the encoding, and characters with a meaning of their own.
const VALID: &[(&str, &[u8])] = &[
    ("6.7.1", b"\x00"),
    ("6.7.2", b"\xc2\x80"),
    ("6.7.3", b"\xe0\xa0\x80"),
    ("6.7.4", b"\xf0\x90\x80\x80"),
    ("6.9.1", b"\x7f"),
    ("6.9.2", b"\xdf\xbf"),
    ("6.9.3", b"\xef\xbf\xbf"),
    ("6.9.4", b"\xf4\x8f\xbf\xbf"),
    ("6.11.1", b"\xed\x9f\xbf"),
    ("6.11.2", b"\xee\x80\x80"),
    ("6.11.3", b"\xef\xbf\xbd"),
    ("6.11.4", b"\xf4\x8f\xbf\xbf"),
    ("6.23.1", b"\xef\xbf\xb9"),
    ("6.23.2", b"\xef\xbf\xba"),
    ("6.23.3", b"\xef\xbf\xbb"),
    ("6.23.4", b"\xef\xbf\xbc"),
    ("6.23.5", b"\xef\xbf\xbd"),
    ("6.23.6", b"\xef\xbf\xbe"),
    ("6.23.7", b"\xef\xbf\xbf"),
];

/// Sequences that are too long, beyond U+10FFFF, incomplete, overlong, or surrogates.
const INVALID: &[(&str, &[u8])] = &[
    ("6.8.1", b"\xf8\x88\x80\x80\x80"),
    ("6.8.2", b"\xfc\x84\x80\x80\x80\x80"),
    ("6.10.1", b"\xf7\xbf\xbf\xbf"),
    ("6.10.2", b"\xfb\xbf\xbf\xbf\xbf"),
    ("6.10.3", b"\xfd\xbf\xbf\xbf\xbf\xbf"),
    ("6.11.5", b"\xf4\x90\x80\x80"),
    ("6.12.1", b"\x80"),
    ("6.12.2", b"\xbf"),
    ("6.12.3", b"\x80\xbf"),
    ("6.12.4", b"\x80\xbf\x80"),
    ("6.12.5", b"\x80\xbf\x80\xbf"),
    ("6.12.6", b"\x80\xbf\x80\xbf\x80"),
    ("6.12.7", b"\x80\xbf\x80\xbf\x80\xbf"),
    ("6.12.8", b"\x80\x81\x82\x83\x84\x85\x86\x87\x88\x89\x8a\x8b\x8c\x8d\x8e\x8f\x90\xa0\xb0\xbf"),
    ("6.14.1", b"\xc0"),
    ("6.14.2", b"\xe0\x80"),
    ("6.14.3", b"\xf0\x80\x80"),
    ("6.14.4", b"\xf8\x80\x80\x80"),
    ("6.14.5", b"\xfc\x80\x80\x80\x80"),
    ("6.14.6", b"\xdf"),
    ("6.14.7", b"\xef\xbf"),
    ("6.14.8", b"\xf7\xbf\xbf"),
    ("6.14.9", b"\xfb\xbf\xbf\xbf"),
    ("6.14.10", b"\xfd\xbf\xbf\xbf\xbf"),
    (
        "6.15.1",
        b"\xc0\xe0\x80\xf0\x80\x80\xf8\x80\x80\x80\xfc\x80\x80\x80\x80\xdf\xef\xbf\xf7\xbf\xbf\xfb\xbf\xbf\xbf\xfd\xbf\xbf\xbf\xbf",
    ),
    ("6.16.1", b"\xfe"),
    ("6.16.2", b"\xff"),
    ("6.16.3", b"\xfe\xfe\xff\xff"),
    ("6.17.1", b"\xc0\xaf"),
    ("6.17.2", b"\xe0\x80\xaf"),
    ("6.17.3", b"\xf0\x80\x80\xaf"),
    ("6.17.4", b"\xf8\x80\x80\x80\xaf"),
    ("6.17.5", b"\xfc\x80\x80\x80\x80\xaf"),
    ("6.18.1", b"\xc1\xbf"),
    ("6.18.2", b"\xe0\x9f\xbf"),
    ("6.18.3", b"\xf0\x8f\xbf\xbf"),
    ("6.18.4", b"\xf8\x87\xbf\xbf\xbf"),
    ("6.18.5", b"\xfc\x83\xbf\xbf\xbf\xbf"),
    ("6.19.1", b"\xc0\x80"),
    ("6.19.2", b"\xe0\x80\x80"),
    ("6.19.3", b"\xf0\x80\x80\x80"),
    ("6.19.4", b"\xf8\x80\x80\x80\x80"),
    ("6.19.5", b"\xfc\x80\x80\x80\x80\x80"),
    ("6.20.1", b"\xed\xa0\x80"),
    ("6.20.2", b"\xed\xad\xbf"),
    ("6.20.3", b"\xed\xae\x80"),
    ("6.20.4", b"\xed\xaf\xbf"),
    ("6.20.5", b"\xed\xb0\x80"),
    ("6.20.6", b"\xed\xbe\x80"),
    ("6.20.7", b"\xed\xbf\xbf"),
    ("6.21.1", b"\xed\xa0\x80\xed\xb0\x80"),
    ("6.21.2", b"\xed\xa0\x80\xed\xbf\xbf"),
    ("6.21.3", b"\xed\xad\xbf\xed\xb0\x80"),
    ("6.21.4", b"\xed\xad\xbf\xed\xbf\xbf"),
    ("6.21.5", b"\xed\xae\x80\xed\xb0\x80"),
    ("6.21.6", b"\xed\xae\x80\xed\xbf\xbf"),
    ("6.21.7", b"\xed\xaf\xbf\xed\xb0\x80"),
    ("6.21.8", b"\xed\xaf\xbf\xed\xbf\xbf"),
];
