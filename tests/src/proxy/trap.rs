//! A fault that happens once, to the request that a test is about.

use tokio::sync::oneshot;

/// A fault that waits for its request.
#[derive(Debug)]
pub struct Trap {
    sprung: Option<oneshot::Receiver<()>>,
    release: Option<oneshot::Sender<()>>,
}

impl Trap {
    /// Waits until it has happened: the request was lost or is being held, the server has answered and the
    /// answer was lost, or the connection is stranded.
    pub async fn sprung(&mut self) {
        if let Some(sprung) = self.sprung.take() {
            sprung.await.expect("the proxy lives and the trapped connection was not cut otherwise");
        }
    }

    /// Lets a held request go. Dropping the trap does the same.
    pub fn release(mut self) {
        self.release = None;
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    RequestLost,
    AnswerLost,
    RequestHeld,
    Stranded,
}

/// The proxy's side of a trap.
#[derive(Debug)]
pub(super) struct Armed {
    pub(super) bytes: Vec<u8>,
    pub(super) fate: Fate,
    pub(super) sprung: oneshot::Sender<()>,
    pub(super) released: oneshot::Receiver<()>,
}

pub(super) fn new(bytes: Vec<u8>, fate: Fate) -> (Armed, Trap) {
    assert!(!bytes.is_empty(), "an empty request is in every request");
    let (sprung, on_sprung) = oneshot::channel();
    let (release, released) = oneshot::channel();
    let trap = Trap { sprung: Some(on_sprung), release: Some(release) };
    (Armed { bytes, fate, sprung, released }, trap)
}

/// Finds bytes in a stream that comes in pieces: keeps as much of the last piece as could begin a match.
#[derive(Debug, Default)]
pub(super) struct Scanner {
    tail: Vec<u8>,
}

impl Scanner {
    pub(super) fn finds(&mut self, wanted: &[u8], piece: &[u8]) -> bool {
        self.tail.extend_from_slice(piece);
        let found = self.tail.windows(wanted.len()).any(|window| window == wanted);
        self.keep(if found { 0 } else { wanted.len() - 1 });
        found
    }

    /// Nothing is looked for in this piece.
    pub(super) fn forget(&mut self) {
        self.tail.clear();
    }

    fn keep(&mut self, bytes: usize) {
        let drop = self.tail.len().saturating_sub(bytes);
        self.tail.drain(..drop);
    }
}

#[cfg(test)]
mod tests {
    use super::Scanner;

    #[test]
    fn a_match_is_found_however_the_stream_is_cut() {
        for piece in 1..8 {
            let mut scanner = Scanner::default();
            let found =
                b"BEGIN; COMMI COMMIT".chunks(piece).filter(|chunk| scanner.finds(b"COMMIT", chunk)).count();
            assert_eq!(found, 1, "in pieces of {piece}");
        }
        assert!(!Scanner::default().finds(b"COMMIT", b"COMMI"));
    }
}
