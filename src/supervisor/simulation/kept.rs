//! What is to be kept of a unikernel: enough to tell what each request makes of it.

use crate::supervisor::{DesiredState, Recorded};
use crate::unikernel::Config;

/// Versions are known by the request by which they came, which is their argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Kept {
    pub(super) creation: i64,
    previous: Option<i64>,
    pub(super) status: Status,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    Up,
    Stopped,
    Ended,
}

impl Kept {
    pub(super) fn of(recorded: &Recorded) -> Self {
        Self {
            creation: creation(&recorded.version.config),
            previous: recorded
                .previous
                .as_ref()
                .map(|previous| creation(&previous.config)),
            status: match recorded.standing {
                DesiredState::Up => Status::Up,
                DesiredState::Stopped => Status::Stopped,
                DesiredState::Ended(_) => Status::Ended,
            },
        }
    }

    pub(super) fn up(self) -> Self {
        Self {
            status: Status::Up,
            ..self
        }
    }

    pub(super) fn without_previous(self) -> Self {
        Self {
            previous: None,
            ..self
        }
    }

    pub(super) fn ended(self) -> Self {
        Self {
            status: Status::Ended,
            ..self
        }
    }
}

/// A create, or a restart with other arguments.
#[expect(clippy::unnecessary_wraps, reason = "one of several changes")]
pub(super) fn created(before: Option<Kept>, request: i64) -> Option<Kept> {
    Some(Kept {
        creation: request,
        previous: before.map(|before| before.creation),
        status: Status::Up,
    })
}

/// A start, or a restart of the same.
pub(super) fn started(before: Option<Kept>, _: i64) -> Option<Kept> {
    before.map(|before| Kept {
        status: Status::Up,
        ..before
    })
}

pub(super) fn rolled_back(before: Option<Kept>, _: i64) -> Option<Kept> {
    before.map(|before| Kept {
        creation: before.previous.unwrap_or(before.creation),
        previous: before.previous.map(|_| before.creation),
        status: Status::Up,
    })
}

pub(super) fn stopped(before: Option<Kept>, _: i64) -> Option<Kept> {
    before.map(|before| Kept {
        status: match before.status {
            Status::Ended => Status::Ended,
            Status::Up | Status::Stopped => Status::Stopped,
        },
        ..before
    })
}

/// The request by which a configuration came.
pub(super) fn creation(config: &Config) -> i64 {
    let number = std::str::from_utf8(&config.arguments[0]);
    number.unwrap().parse().unwrap()
}
