//! State files in words.

use super::command::{config, create, in_words, policy_text};
use super::page::Page;
use crate::wire::state::{State, albatross};

/// The policies and unikernels of a state of ours.
pub(super) fn ours(page: &mut Page, state: &State) {
    page.group("state of petreld", |page| {
        for (path, policy) in &state.policies {
            page.field("policy", format_args!("{path} {}", in_words(policy)));
        }
        for (name, settings, digest) in &state.unikernels {
            page.group(format_args!("unikernel: {name}"), |page| {
                page.field("kind", settings.kind);
                config(page, settings);
                page.field("image", format_args!("SHA-256 {digest}"));
            });
        }
    });
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
