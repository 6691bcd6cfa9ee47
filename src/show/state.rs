//! State files in words.

use super::command::{config, create, in_words, policy_text};
use super::page::{Page, time};
use crate::policy::Age;
use crate::unikernel::Version;
use crate::wire::state::{DesiredState, State, albatross};

/// The policies and unikernels of a state of ours.
pub(super) fn ours(page: &mut Page, state: &State) {
    page.group("state of petreld", |page| {
        for (path, policy) in &state.policies {
            page.field("policy", format_args!("{path} {}", in_words(policy)));
        }
        for (path, age) in &state.ages {
            page.field("newest certificate", format_args!("{path} {}", floor(*age)));
        }
        for (path, age) in &state.forgotten {
            let text = format!("and forgotten, below {path} {}", floor(*age));
            page.field("newest certificate", text);
        }
        for recorded in &state.unikernels {
            page.group(format_args!("unikernel: {}", recorded.name), |page| {
                match &recorded.standing {
                    DesiredState::Up => {}
                    DesiredState::Stopped => page.line("stopped"),
                    DesiredState::Ended(exit) => page.line(format_args!("ended: {}", exit.death)),
                }
                version(page, &recorded.version);
                if let Some(previous) = &recorded.previous {
                    page.group("before that", |page| version(page, previous));
                }
            });
        }
    });
}

fn version(page: &mut Page, version: &Version) {
    page.field("kind", version.config.kind);
    config(page, &version.config);
    page.field("image", format_args!("SHA-256 {}", version.image));
}

/// The start of a certificate's validity, and what that means.
fn floor(age: Age) -> String {
    format!(
        "valid from {}; older ones set no policy",
        time(age.not_before())
    )
}

/// The policies and unikernels of a state of albatross, whichever version.
pub(super) fn albatross(page: &mut Page, state: &albatross::State) {
    page.group("state of albatross", |page| {
        for (path, policy) in state.policies() {
            page.field("policy", format_args!("{path} {}", policy_text(policy)));
        }
        for (name, record) in state.unikernels() {
            page.group(format_args!("unikernel: {name}"), |page| {
                create(page, record);
            });
        }
    });
}
