//! The media type of a recording, by its first bytes. A source's own header may say anything, and a browser
//! must never get a page or a script from the store.

/// Bytes from the start that decide about the type.
pub(super) const SNIFFED_BYTES: usize = 16;

/// Longest header of an MP3's first frame that must be seen.
const MP3_HEADER_BYTES: usize = 4;

/// Beginnings of the brands of MP4 files with audio. Images (HEIC, AVIF, JPEG 2000) are files of the same
/// kind.
const MP4_BRANDS: [&[u8]; 7] = [b"M4A", b"M4B", b"mp4", b"iso", b"3g", b"dash", b"MSNV"];

/// The media type of audio that begins with these bytes; none if it is no known audio.
#[must_use]
pub fn media_type(start: &[u8]) -> Option<&'static str> {
    let at = |offset: usize, bytes: &[u8]| start.get(offset..).is_some_and(|rest| rest.starts_with(bytes));
    if at(0, b"RIFF") && at(8, b"WAVE") || at(0, b"RF64") && at(8, b"WAVE") {
        Some("audio/wav")
    } else if is_id3(start) || is_mp3_frame(start) {
        Some("audio/mpeg")
    } else if at(0, b"OggS") {
        Some("audio/ogg")
    } else if at(0, b"fLaC") {
        Some("audio/flac")
    } else if at(4, b"ftyp") && MP4_BRANDS.iter().any(|brand| at(8, brand)) {
        Some("audio/mp4")
    } else if at(0, &[0x1a, 0x45, 0xdf, 0xa3]) {
        Some("audio/webm")
    } else {
        None
    }
}

/// Whether these are the header of an ID3v2 tag, which precedes MP3 frames: a known version, and a size in
/// bytes of seven bits.
fn is_id3(start: &[u8]) -> bool {
    let Some(&[b'I', b'D', b'3', version, revision, flags, a, b, c, d]) = start.first_chunk() else {
        return false;
    };
    (2..=4).contains(&version) && revision != 0xff && flags & 0x0f == 0 && (a | b | c | d) & 0x80 == 0
}

/// Whether these are the header of a frame of MPEG audio, layer III, without reserved values.
fn is_mp3_frame(start: &[u8]) -> bool {
    let Some(&[first, second, third, fourth]) = start.get(..MP3_HEADER_BYTES).and_then(|s| s.first_chunk())
    else {
        return false;
    };
    let is_synced = first == 0xff && second & 0xe0 == 0xe0;
    let (version, layer) = (second >> 3 & 3, second >> 1 & 3);
    let (bit_rate, sample_rate, emphasis) = (third >> 4, third >> 2 & 3, fourth & 3);
    is_synced
        && version != 1
        && layer == 1
        && !matches!(bit_rate, 0 | 15)
        && sample_rate != 3
        && emphasis != 2
}

/// Bytes that a WAV file of this start must have, if it says so. Files that were written as a stream say 0 or
/// 4 GiB.
#[must_use]
pub(super) fn announced_bytes(start: &[u8]) -> Option<u64> {
    if !(start.starts_with(b"RIFF") && start.get(8..12) == Some(b"WAVE")) {
        return None;
    }
    let size = u32::from_le_bytes(*start.get(4..8)?.first_chunk()?);
    (size != 0 && size < 0xffff_ff00).then(|| u64::from(size) + 8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn audio_is_known_by_its_first_bytes() {
        for (start, expected) in [
            (&b"RIFF\x24\0\0\0WAVEfmt "[..], Some("audio/wav")),
            (b"ID3\x04\0\0\0\0\0\0", Some("audio/mpeg")),
            (&[0xff, 0xfb, 0x90, 0x64], Some("audio/mpeg")),
            (&[0xff, 0xf3, 0x40, 0xc4], Some("audio/mpeg")),
            (b"OggS\0\x02", Some("audio/ogg")),
            (b"fLaC\0\0\0\x22", Some("audio/flac")),
            (b"\0\0\0\x20ftypM4A ", Some("audio/mp4")),
            (b"\0\0\0\x18ftypmp42", Some("audio/mp4")),
            (b"\0\0\0\x24ftypiso5", Some("audio/mp4")),
            (b"\0\0\0\x20ftypavif", None),
            (b"\0\0\0\x18ftypheic", None),
            (b"\0\0\0\x14ftypjp2 ", None),
            (b"\0\0\0\x18ftyp", None),
            (b"ID3 tags are described on this page", None),
            (b"ID3\x04\0\0\xff\xff\xff\xff", None),
            (b"ID3\x04\0", None),
            (&[0x1a, 0x45, 0xdf, 0xa3, 0x9f], Some("audio/webm")),
            (b"<!DOCTYPE html><html>", None),
            (b"{\"error\": \"not found\"}", None),
            (b"<?xml version=\"1.0\"?>", None),
            (b"RIFF\x24\0\0\0AVI LIST", None),
            (b"GIF89a", None),
            (b"%PDF-1.7", None),
            (b"PK\x03\x04", None),
            (&[0xff, 0xff, 0xff, 0xff], None),
            (&[0xff, 0xd8, 0xff, 0xe0], None),
            (b"", None),
            (b"RI", None),
        ] {
            assert_eq!(media_type(start), expected, "{start:?}");
        }
    }

    #[test]
    fn a_wav_file_announces_its_size() {
        assert_eq!(announced_bytes(b"RIFF\x24\x08\0\0WAVEfmt "), Some(0x82c));
        assert_eq!(announced_bytes(b"RIFF\xff\xff\xff\xffWAVEfmt "), None);
        assert_eq!(announced_bytes(b"RIFF\0\0\0\0WAVEfmt "), None);
        assert_eq!(announced_bytes(b"ID3\x04\0\0\0\0\0\0\0\0"), None);
    }
}
