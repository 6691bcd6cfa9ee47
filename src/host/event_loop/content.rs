//! Transfers of images and block devices, as the supervisor decides.

use std::os::fd::{AsFd, BorrowedFd};

use super::super::block::{BlockError, Staging};
use super::super::images::{self, ImageError};
use super::super::outgoing::Outgoing;
use super::super::transfer::{
    Form, Incoming, Outcome, Receive, Report, Send, Transfer, TransferKind,
};
use super::super::{MAX_IMAGES, MAX_IMAGES_OF_TENANT};
use super::{Arrival, Daemon};
use crate::name::{Name, Path};
use crate::supervisor::{
    BlockContent, BlockWork, ConnectionId, Event, StagedImage, TaskId, UPLOAD_STEP_BYTES, UploadId,
    share,
};
use crate::unikernel::ImageDigest;
use crate::wire::{Header, Message, Payload, domain};

/// Transfer under way.
pub(super) struct Underway {
    transfer: Transfer,
    purpose: Purpose,
}

/// Purpose of a transfer.
enum Purpose {
    /// Sends an image to a tenant, in an answer with this header.
    Image(Path, Header),
    /// Receives an image into this file.
    Upload(UploadId, images::Staging),
    /// Task of the supervisor; with the future device if content is received.
    Device(TaskId, Name, Option<Staging>),
}

impl Underway {
    /// Cancels the transfer. Its process is the last to hold the file, and waits until that is freed.
    fn end(self) {
        let Self { transfer, purpose } = self;
        drop(purpose);
        drop(transfer);
    }

    /// Upload that this transfer receives.
    fn upload(&self) -> Option<UploadId> {
        match &self.purpose {
            Purpose::Upload(upload, _) => Some(*upload),
            Purpose::Image(..) | Purpose::Device(..) => None,
        }
    }

    /// Whether the transfer writes to the disk.
    fn writes(&self) -> bool {
        matches!(
            self.purpose,
            Purpose::Upload(..) | Purpose::Device(_, _, Some(_))
        )
    }
}

/// Readable when the process of the transfer has something to report.
impl AsFd for Underway {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.transfer.as_fd()
    }
}

impl Daemon {
    pub(super) fn work(&mut self, task: TaskId, name: &Name, work: BlockWork) {
        let begun = match work {
            BlockWork::Make(size) => {
                let change = self
                    .check_block_space(0)
                    .and_then(|()| self.blocks.make(name, size).map_err(text));
                change.map(|change| self.writer.change(task, name.clone(), change))
            }
            BlockWork::Remove => {
                let change = self.blocks.remove(name).map_err(text);
                change.map(|change| self.writer.change(task, name.clone(), change))
            }
            BlockWork::Receive(content) => self.receive(task, name, content),
            BlockWork::Send {
                to,
                header,
                level,
                whole,
            } => {
                let form = if whole { Form::Device } else { Form::Pieces };
                let read = self.blocks.read(name).map_err(text);
                read.and_then(|content| {
                    let purpose = Purpose::Device(task, name.clone(), None);
                    self.send(to, purpose, (content, header, level, form))
                })
            }
        };
        if let Err(why) = begun {
            self.told(task, name, Err(why));
        }
    }

    /// Begins to send an image.
    pub(super) fn send_image(
        &mut self,
        to: ConnectionId,
        header: Header,
        image: &ImageDigest,
        level: u8,
    ) {
        let read = self.images.read(image);
        let content = read.map_err(|error: ImageError| error.to_string());
        let begun = content.and_then(|file| {
            let tenant = domain::name(&header.name).map_err(|error| error.to_string())?;
            let tenant = tenant.path().tenant();
            self.check_images(&tenant)?;
            let content = Outgoing::new(file).map_err(|error| error.to_string())?;
            let purpose = Purpose::Image(tenant, header.clone());
            self.send(to, purpose, (content, header.clone(), level, Form::Image))
        });
        if let Err(why) = begun {
            let failure = Message::answer(header, Payload::Failure(why.into()));
            self.answer(to, &failure, true);
        }
    }

    /// Checks that one more image can be sent to a tenant.
    fn check_images(&self, tenant: &Path) -> Result<(), String> {
        let (mut all, mut own) = (0, 0);
        for underway in self.transfers.values() {
            if let Purpose::Image(of, _) = &underway.purpose {
                all += 1;
                own += usize::from(of == tenant);
            }
        }
        share(
            (all, MAX_IMAGES),
            (own, MAX_IMAGES_OF_TENANT),
            "images",
            "being sent",
        )
    }

    fn send(
        &mut self,
        to: ConnectionId,
        purpose: Purpose,
        (content, header, level, form): (Outgoing, Header, u8, Form),
    ) -> Result<(), String> {
        let cargo = |_| {
            TransferKind::Send(Send {
                content,
                header,
                level,
                form,
            })
        };
        self.carry(to, false, purpose, cargo)
    }

    fn receive(&mut self, task: TaskId, name: &Name, content: BlockContent) -> Result<(), String> {
        let BlockContent {
            from,
            size,
            make,
            embedded,
            compressed,
        } = content;
        self.check_block_space((self.writing() + 1) * UPLOAD_STEP_BYTES)?;
        let staged = self.blocks.stage(name, size, make, compressed);
        let (staging, content) = staged.map_err(text)?;
        let purpose = Purpose::Device(task, name.clone(), Some(staging));
        self.take_in(from, purpose, Incoming::Device(content), embedded)
    }

    fn take_in(
        &mut self,
        from: ConnectionId,
        purpose: Purpose,
        incoming: Incoming,
        embedded: Option<Vec<u8>>,
    ) -> Result<(), String> {
        let has_content = embedded.is_some();
        let cargo = |held| {
            TransferKind::Receive(Box::new(Receive {
                incoming,
                embedded,
                held,
            }))
        };
        self.carry(from, has_content, purpose, cargo)
    }

    /// Starts a transfer worker, which also gets the bytes of the client that have arrived already.
    fn carry(
        &mut self,
        client: ConnectionId,
        has_content: bool,
        purpose: Purpose,
        cargo: impl FnOnce(Vec<u8>) -> TransferKind,
    ) -> Result<(), String> {
        let connection = self.clients.get_mut(client);
        let connection = connection.ok_or("the client has left")?;
        let held = connection.give_away(has_content);
        match Transfer::start(connection.as_fd(), cargo(held)) {
            Ok(transfer) => {
                let underway = Underway { transfer, purpose };
                self.transfers.insert(client, underway);
                Ok(())
            }
            Err(error) => {
                connection.come_back();
                Err(format!("no process can be started for it: {error}"))
            }
        }
    }

    /// Begins to receive an image: `embedded`, or as raw frames.
    pub(super) fn receive_image(
        &mut self,
        upload: UploadId,
        from: ConnectionId,
        embedded: Option<Vec<u8>>,
        compressed: bool,
    ) {
        if !self.clients.contains(from) {
            // Its end is an event of its own.
            return;
        }
        let staged = self.check_upload_space(upload).and_then(|()| {
            let staged = self.images.stage(compressed);
            staged.map_err(|error| error.to_string())
        });
        let begun = staged.and_then(|(staging, content)| {
            let incoming = Incoming::Image(content);
            self.take_in(from, Purpose::Upload(upload, staging), incoming, embedded)
        });
        if let Err(why) = begun {
            let result = Err(why);
            self.events.push_back(Event::Staged { upload, result });
        }
    }

    /// Inspects an image whose content is on disk, and finds a tender for it.
    fn staged(
        &mut self,
        upload: UploadId,
        staging: images::Staging,
        digest: &[u8],
    ) -> Result<StagedImage, String> {
        let digest = digest
            .try_into()
            .map_err(|_| "the process that took the image in reports no SHA-256")?;
        let staged = staging.complete(ImageDigest(digest));
        let staged = staged.map_err(|error| error.to_string())?;
        let manifest = &staged.manifest;
        self.tenders
            .find(manifest.target, manifest.abi_version)
            .map_err(|error| error.to_string())?;
        let image = StagedImage {
            digest: staged.digest,
            manifest: manifest.clone(),
            size: staged.size,
        };
        self.staged.insert(upload, staged);
        Ok(image)
    }

    /// Discards an image that is being received or staged.
    pub(super) fn discard_image(&mut self, upload: UploadId) {
        if let Some(staged) = self.staged.remove(&upload) {
            self.writer.discard(staged);
        }
        self.end_upload(upload);
    }

    /// Lets an upload that its policies allow go on, if there is space.
    pub(super) fn grant_upload(&mut self, upload: UploadId) {
        if let Err(why) = self.check_upload_space(upload) {
            return self.refuse_upload(upload, why);
        }
        let mut transfers = self.transfers.values_mut();
        if let Some(underway) = transfers.find(|underway| underway.upload() == Some(upload)) {
            underway.transfer.grant();
        }
    }

    pub(super) fn refuse_upload(&mut self, upload: UploadId, why: String) {
        if self.end_upload(upload) {
            let result = Err(why);
            self.events.push_back(Event::Staged { upload, result });
        }
    }

    /// Ends the transfer of an upload, if there is one.
    fn end_upload(&mut self, upload: UploadId) -> bool {
        let mut transfers = self.transfers.iter();
        let client = transfers.find_map(|(client, underway)| {
            let is_it = underway.upload() == Some(upload);
            is_it.then_some(*client)
        });
        let underway = client.and_then(|client| self.transfers.remove_entry(&client));
        let Some((client, underway)) = underway else {
            return false;
        };
        underway.end();
        if let Some(connection) = self.clients.get_mut(client) {
            connection.come_back();
        }
        true
    }

    /// Checks that there is space for the next step of this upload, and for those of all others under way.
    fn check_upload_space(&self, upload: UploadId) -> Result<(), String> {
        let own = |underway: &Underway| underway.upload() == Some(upload);
        let has_begun = self.transfers.values().any(own);
        let steps = self.writing() + u64::from(!has_begun);
        self.reserve
            .check(self.images.directory(), steps * UPLOAD_STEP_BYTES)
            .map_err(|error| error.to_string())
    }

    /// Number of transfers that write to the disk, each of which may take a step.
    fn writing(&self) -> u64 {
        self.transfers.values().filter(|one| one.writes()).count() as u64
    }

    /// Lets a device take more of the disk, or ends its transfer.
    fn grow_device(&mut self, client: ConnectionId) {
        match self.check_block_space(self.writing() * UPLOAD_STEP_BYTES) {
            Ok(()) => {
                if let Some(underway) = self.transfers.get_mut(&client) {
                    underway.transfer.grant();
                }
            }
            Err(why) => self.transferred(client, Outcome::Failed(why)),
        }
    }

    /// Checks that the file system of the block devices has so many bytes left beside the reserve.
    fn check_block_space(&self, wanted: u64) -> Result<(), String> {
        self.reserve
            .check(self.blocks.directory(), wanted)
            .map_err(|error| error.to_string())
    }

    /// Handles the report of a transfer.
    pub(super) fn look_at_transfer(&mut self, client: ConnectionId) {
        let Some(underway) = self.transfers.get_mut(&client) else {
            return;
        };
        match underway.transfer.progress() {
            Some(Report::Grows(bytes)) => match underway.upload() {
                Some(upload) => self.events.push_back(Event::UploadGrows { upload, bytes }),
                None => self.grow_device(client),
            },
            Some(Report::Ended(outcome)) => self.transferred(client, outcome),
            None => {}
        }
    }

    fn transferred(&mut self, client: ConnectionId, outcome: Outcome) {
        let Some(Underway { transfer, purpose }) = self.transfers.remove(&client) else {
            return;
        };
        if let Some(connection) = self.clients.get_mut(client) {
            connection.come_back();
        }
        if let Outcome::Lost(why) = &outcome {
            log::info!("a client's connection ends: {why}");
            self.arrived(client, Arrival::Gone);
        }
        match (purpose, outcome) {
            (Purpose::Image(..), Outcome::Done(last)) => self.answer_with(client, &last),
            (Purpose::Image(_, header), Outcome::Failed(why)) => {
                let failure = Message::answer(header, Payload::Failure(why.into()));
                self.answer(client, &failure, true);
            }
            (Purpose::Image(..) | Purpose::Upload(..), Outcome::Lost(_)) => {}
            (Purpose::Upload(upload, staging), Outcome::Done(digest)) => {
                let result = self.staged(upload, staging, &digest);
                self.events.push_back(Event::Staged { upload, result });
            }
            (Purpose::Upload(upload, staging), Outcome::Failed(why)) => {
                drop(staging);
                let result = Err(why);
                self.events.push_back(Event::Staged { upload, result });
            }
            (Purpose::Device(task, name, staging), Outcome::Done(last)) => {
                match staging {
                    Some(staging) => {
                        let change = self.blocks.install(staging);
                        self.writer.change(task, name, change);
                    }
                    None => self.told(task, &name, Ok(())),
                }
                if !last.is_empty() {
                    self.answer_with(client, &last);
                }
            }
            (Purpose::Device(task, name, staging), Outcome::Failed(why) | Outcome::Lost(why)) => {
                drop(staging);
                self.told(task, &name, Err(why));
            }
        }
        // Only now: this is the last handle of a file that is of no use any more.
        drop(transfer);
    }

    /// Aborts a task that sends or receives.
    pub(super) fn break_off(&mut self, task: TaskId) {
        let mut transfers = self.transfers.iter();
        let found = transfers.find_map(|(client, underway)| match &underway.purpose {
            Purpose::Device(of, _, staging) if *of == task => Some((*client, staging.is_some())),
            _ => None,
        });
        let why = || "the supervisor is stopping".to_owned();
        match found {
            Some((client, true)) => self.transferred(client, Outcome::Failed(why())),
            // Perhaps in the middle of a message.
            Some((client, false)) => self.transferred(client, Outcome::Lost(why())),
            None => {}
        }
    }

    pub(super) fn told(&mut self, task: TaskId, name: &Name, result: Result<(), String>) {
        let left = self.blocks.size(name);
        self.events.push_back(Event::Block { task, result, left });
    }
}

#[allow(clippy::needless_pass_by_value, reason = "for map_err")]
fn text(error: BlockError) -> String {
    error.to_string()
}
