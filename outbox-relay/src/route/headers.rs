//! The headers of a record, in memory that the next record uses again.

/// Names and values in order; a name may come more than once.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Headers {
    /// All of them, one behind the other.
    text: String,
    /// Where each name and each value ends.
    ends: Vec<(usize, usize)>,
}

impl Headers {
    /// How many.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Each name with its value.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &str)> {
        let mut begin = 0;
        self.ends.iter().map(move |&(name, value)| {
            let header = (&self.text[begin..name], &self.text[name..value]);
            begin = value;
            header
        })
    }

    pub(super) fn clear(&mut self) {
        self.text.clear();
        self.ends.clear();
    }

    /// One more, behind the others.
    pub fn push(&mut self, name: &str, value: &str) {
        self.push_prefixed("", name, value);
    }

    /// The name is put together of two parts.
    pub(super) fn push_prefixed(&mut self, prefix: &str, name: &str, value: &str) {
        self.text.push_str(prefix);
        self.text.push_str(name);
        let name_ends = self.text.len();
        self.text.push_str(value);
        self.ends.push((name_ends, self.text.len()));
    }
}
