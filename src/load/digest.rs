//! A digest that tells equal contents from others: FNV-1a over words of eight bytes. It guards against mistakes and
//! damage, not against intent.

/// A digest of what was added to it.
#[derive(Debug, Clone)]
pub(crate) struct Digest(u64);

impl Digest {
    /// The digest of nothing.
    pub fn new() -> Self {
        Digest(0xcbf2_9ce4_8422_2325)
    }

    /// Adds bytes and where they end.
    pub fn add(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        let bytes = bytes.as_ref();
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.word(u64::from_le_bytes(word));
        }
        self.word(bytes.len() as u64);
        self
    }

    fn word(&mut self, word: u64) {
        // The rotation carries high bits down, which the product only moves up.
        self.0 = (self.0 ^ word).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(29);
    }

    /// Sixteen hexadecimal digits.
    pub fn hex(&self) -> String {
        format!("{:016x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bit_and_every_border_counts() {
        let digest = |parts: &[&[u8]]| {
            let mut digest = Digest::new();
            for part in parts {
                digest.add(part);
            }
            digest.hex()
        };
        let bytes = [7u8; 40];
        let whole = digest(&[&bytes]);
        for bit in 0..bytes.len() * 8 {
            let mut other = bytes;
            other[bit / 8] ^= 1 << (bit % 8);
            assert_ne!(digest(&[&other]), whole, "bit {bit}");
        }
        assert_ne!(digest(&[b"ab", b"c"]), digest(&[b"a", b"bc"]));
        assert_ne!(digest(&[b"a"]), digest(&[b"a\0"]));
    }
}
