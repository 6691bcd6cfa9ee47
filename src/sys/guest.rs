//! The memory of an spt guest, and the jump into it (SOLO5 facts, 8.1 and 8.3).
//!
//! Guest addresses are addresses of this process. The order is in the types: [`Memory`] is
//! written, then [`Memory::seal`]ed, and only [`Sealed`] memory can be entered, which installs
//! the seccomp filter first.
#![allow(unsafe_code)]

use std::arch::asm;
use std::ffi::c_void;
use std::num::NonZeroUsize;
use std::ptr::NonNull;
use std::slice;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::errno::Errno;
use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, mprotect};
use nix::sys::signal::{SigHandler, Signal, signal};

/// The lowest guest address that is mapped; below it every access faults.
pub const LOWEST_ADDRESS: usize = 0x1_0000;

/// Guest memory, zero-filled, readable and writable, at its fixed place in this process.
pub struct Memory {
    base: NonNull<u8>,
    /// The first address after it.
    end: usize,
}

/// Guest memory with its final protection.
pub struct Sealed {
    end: usize,
}

/// The final protection of some pages of guest memory.
#[derive(Clone, Copy, Debug)]
pub struct Protection {
    /// First address, a multiple of the page size.
    pub start: u64,
    /// First address after, a multiple of the page size.
    pub end: u64,
    /// Readable.
    pub read: bool,
    /// Writable.
    pub write: bool,
    /// Executable.
    pub execute: bool,
}

/// Where [`Sealed::enter`] jumps to: in memory, so that no register need hold it.
static ENTRY: AtomicU64 = AtomicU64::new(0);

impl Memory {
    /// Maps `LOWEST_ADDRESS..size`. `EEXIST` when something of this process lies there.
    pub fn map(size: u64, executable: bool) -> nix::Result<Self> {
        let end = usize::try_from(size).map_err(|_| Errno::ENOMEM)?;
        let length = end
            .checked_sub(LOWEST_ADDRESS)
            .and_then(NonZeroUsize::new)
            .ok_or(Errno::EINVAL)?;
        let mut protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        protection.set(ProtFlags::PROT_EXEC, executable);
        // SAFETY: MAP_FIXED_NOREPLACE never touches what is mapped already.
        let base = unsafe {
            mmap_anonymous(
                NonZeroUsize::new(LOWEST_ADDRESS),
                length,
                protection,
                MapFlags::MAP_PRIVATE | MapFlags::MAP_FIXED_NOREPLACE,
            )?
        };
        // A kernel before 4.17 takes the address as a mere hint.
        if base.addr().get() != LOWEST_ADDRESS {
            return Err(Errno::EEXIST);
        }
        Ok(Self {
            base: base.cast(),
            end,
        })
    }

    /// The bytes from guest address `address`; nothing when they are not all guest memory.
    pub fn slice_mut(&mut self, address: u64, length: u64) -> Option<&mut [u8]> {
        let start = usize::try_from(address).ok()?;
        let length = usize::try_from(length).ok()?;
        let offset = start.checked_sub(LOWEST_ADDRESS)?;
        if start.checked_add(length)? > self.end {
            return None;
        }
        // SAFETY: `offset..offset + length` lies in the mapping, which is readable, writable and
        // initialised; the borrow of `self` makes it the only reference.
        Some(unsafe { slice::from_raw_parts_mut(self.base.as_ptr().add(offset), length) })
    }

    /// Sets the final protection of these ranges; the rest stays as it is.
    pub fn seal(self, ranges: impl IntoIterator<Item = Protection>) -> nix::Result<Sealed> {
        for range in ranges {
            let start = usize::try_from(range.start).map_err(|_| Errno::EINVAL)?;
            let end = usize::try_from(range.end).map_err(|_| Errno::EINVAL)?;
            if start < LOWEST_ADDRESS || start > end || end > self.end {
                return Err(Errno::EINVAL);
            }
            let mut protection = ProtFlags::empty();
            protection.set(ProtFlags::PROT_READ, range.read);
            protection.set(ProtFlags::PROT_WRITE, range.write);
            protection.set(ProtFlags::PROT_EXEC, range.execute);
            // SAFETY: the range lies in the mapping, to which no reference is left.
            unsafe {
                let pages = self.base.add(start - LOWEST_ADDRESS).cast::<c_void>();
                mprotect(pages, end - start, protection)?;
            }
        }
        Ok(Sealed { end: self.end })
    }
}

impl Sealed {
    /// Locks this process up with `filter` and becomes the guest. Returns only on failure.
    ///
    /// The guest starts at `entry` with `argument` in `rdi`, the stack pointer at the top of its
    /// memory less 8, and every other general register zero.
    pub fn enter(
        self,
        filter: seccompiler::BpfProgramRef<'_>,
        entry: u64,
        argument: u64,
    ) -> seccompiler::Error {
        ENTRY.store(entry, Ordering::SeqCst);
        let stack = self.end - 8;
        if let Err(error) = seccompiler::apply_filter(filter) {
            return error;
        }
        // From here on most system calls kill: nothing may allocate, free, or return.
        //
        // SAFETY: nothing of this program runs after the jump. The guest can do with this
        // process what it likes, within the filter, and that is what it was loaded for.
        unsafe {
            asm!(
                "mov rsp, rax",
                "xor eax, eax",
                "xor ebx, ebx",
                "xor ecx, ecx",
                "xor edx, edx",
                "xor esi, esi",
                "xor ebp, ebp",
                "xor r8d, r8d",
                "xor r9d, r9d",
                "xor r10d, r10d",
                "xor r11d, r11d",
                "xor r12d, r12d",
                "xor r13d, r13d",
                "xor r14d, r14d",
                "xor r15d, r15d",
                "jmp qword ptr [rip + {entry}]",
                entry = sym ENTRY,
                in("rax") stack,
                in("rdi") argument,
                options(noreturn),
            )
        }
    }
}

/// Puts back the default action of the signals that Rust's start-up code took over, so that a
/// faulting guest dies by the signal of its fault, and a closed console ends it.
pub fn restore_default_signals() -> nix::Result<()> {
    for number in [Signal::SIGSEGV, Signal::SIGBUS, Signal::SIGPIPE] {
        // SAFETY: the default action runs no code of this program.
        unsafe { signal(number, SigHandler::SigDfl)? };
    }
    Ok(())
}
