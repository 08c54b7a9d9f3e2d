//! One-time codes by RFC 6238 (SHA-1, 6 digits, 30 s), computed here apart from the library that the daemon uses.

use hmac::{Hmac, Mac};
use sha1::Sha1;

/// The code of a base32 secret at a time in Unix seconds.
pub fn code(secret: &str, unix_seconds: i64) -> String {
    let mut mac = Hmac::<Sha1>::new_from_slice(&base32(secret)).unwrap();
    mac.update(&(unix_seconds / 30).to_be_bytes());
    let digest = mac.finalize().into_bytes();
    let offset = usize::from(digest[19] & 0xf);
    let word = u32::from_be_bytes(digest[offset..offset + 4].try_into().unwrap()) & 0x7fff_ffff;
    format!("{:06}", word % 1_000_000)
}

fn base32(text: &str) -> Vec<u8> {
    let (mut bits, mut count, mut bytes) = (0_u32, 0, Vec::new());
    for c in text.bytes() {
        let value = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567".iter().position(|letter| *letter == c).unwrap();
        bits = (bits << 5 | u32::try_from(value).unwrap()) & 0xfff;
        count += 5;
        if count >= 8 {
            count -= 8;
            bytes.push(u8::try_from(bits >> count & 0xff).unwrap());
        }
    }
    bytes
}
