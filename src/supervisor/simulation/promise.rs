//! What the state file may say of one name or path, given what was asked for and answered.

use std::collections::BTreeMap;

/// `None` as a value: there is nothing of this name.
#[derive(Debug)]
pub(super) struct Promise<Value> {
    /// What was acknowledged last, or has become of it.
    settled: Option<Value>,
    /// What requests without an answer yet may make of it, by their numbers.
    asked: BTreeMap<i64, Option<Value>>,
    /// What a write that failed may have left on disk, until the next one.
    doubtful: Vec<Option<Value>>,
}

impl<Value: PartialEq> Promise<Value> {
    /// What a crash has left.
    pub(super) fn of(settled: Option<Value>) -> Self {
        Self {
            settled,
            asked: BTreeMap::new(),
            doubtful: Vec::new(),
        }
    }

    pub(super) fn ask(&mut self, request: i64, value: Option<Value>) {
        self.asked.insert(request, value);
    }

    /// The request was acknowledged: it must be on disk.
    pub(super) fn keep(&mut self, request: i64) {
        if let Some(value) = self.asked.remove(&request) {
            self.settled = value;
            self.doubtful.clear();
        }
    }

    /// The request was refused. `written`: a write of it was tried.
    pub(super) fn refuse(&mut self, request: i64, written: bool) {
        if let Some(value) = self.asked.remove(&request).filter(|_| written) {
            self.doubtful.push(value);
        }
    }

    /// What is settled is no longer, for good, but the disk may say so a while longer.
    pub(super) fn end(&mut self) {
        let settled = self.settled.take();
        self.doubtful.push(settled);
    }

    pub(super) fn settled(&self) -> Option<&Value> {
        self.settled.as_ref()
    }

    /// Whether the disk may say this.
    pub(super) fn allows(&self, found: Option<&Value>) -> bool {
        std::iter::once(&self.settled)
            .chain(self.asked.values())
            .chain(&self.doubtful)
            .any(|value| value.as_ref() == found)
    }
}
