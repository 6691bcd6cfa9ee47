//! What the state file may say of one name or path, given what was asked for and answered.

use std::collections::BTreeMap;

/// `None` as a value: there is nothing of this name.
#[derive(Debug)]
pub(super) struct Promise<Value> {
    /// What was acknowledged last, or has become of it.
    settled: Option<Value>,
    /// What requests without an answer yet may make of it, by their numbers.
    asked: BTreeMap<i64, Change<Value>>,
    /// What a write that failed may have left on disk, until the next one.
    doubtful: Vec<Option<Value>>,
}

/// What a request makes of what is there.
#[derive(Debug)]
pub(super) enum Change<Value> {
    /// This, whatever was there.
    To(Option<Value>),
    /// Something that depends on what was there, and on the number of the request.
    By(fn(Option<Value>, i64) -> Option<Value>),
}

impl<Value: Clone + PartialEq> Promise<Value> {
    /// What a crash has left.
    pub(super) fn of(settled: Option<Value>) -> Self {
        Self {
            settled,
            asked: BTreeMap::new(),
            doubtful: Vec::new(),
        }
    }

    pub(super) fn ask(&mut self, request: i64, change: Change<Value>) {
        self.asked.insert(request, change);
    }

    /// The request was acknowledged: it must be on disk.
    pub(super) fn keep(&mut self, request: i64) {
        if let Some(change) = self.asked.remove(&request) {
            self.settled = self.changed(request, &change);
            self.doubtful.clear();
        }
    }

    /// The request was refused. `written`: a write of it was tried.
    pub(super) fn refuse(&mut self, request: i64, written: bool) {
        if let Some(change) = self.asked.remove(&request).filter(|_| written) {
            let changed = self.changed(request, &change);
            self.doubtful.push(changed);
        }
    }

    /// The request was carried out, but a write of it failed: the disk may say so only later.
    pub(super) fn keep_unwritten(&mut self, request: i64) {
        if let Some(change) = self.asked.remove(&request) {
            let changed = self.changed(request, &change);
            self.turn(changed);
        }
    }

    /// What is settled has become something else, for good, but the disk may not say so for a while.
    pub(super) fn turn(&mut self, value: Option<Value>) {
        self.doubtful
            .push(std::mem::replace(&mut self.settled, value));
    }

    pub(super) fn settled(&self) -> Option<&Value> {
        self.settled.as_ref()
    }

    /// Whether the disk may say this.
    pub(super) fn allows(&self, found: Option<&Value>) -> bool {
        let asked = self.asked.iter();
        asked
            .map(|(request, change)| self.changed(*request, change))
            .chain(self.doubtful.iter().cloned())
            .chain([self.settled.clone()])
            .any(|value| value.as_ref() == found)
    }

    fn changed(&self, request: i64, change: &Change<Value>) -> Option<Value> {
        match change {
            Change::To(value) => value.clone(),
            Change::By(change) => change(self.settled.clone(), request),
        }
    }
}
