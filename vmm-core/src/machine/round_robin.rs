//! Run loop of a machine whose interrupt controllers are in this process: all vCPUs take turns on one thread.
//!
//! Before each `KVM_RUN` the controllers say whether the vCPU gets an interrupt; after it they get the time. A vCPU runs until it halts,
//! or until another one has waited for [`TIME_SLICE`]. If none can run, the thread sleeps until a timer is due or input comes; if
//! nothing can come, the run is over.
//!
//! What the guest sees depends on the order of exits, the times that the controllers get, the input, and the places at which a kick
//! interrupts a vCPU: nothing else comes from outside.

use std::sync::PoisonError;
use std::time::{Duration, Instant};

use kvm_sys_wrap::{Exit, KickTimer, Vcpu};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::devices::device::InputStatus;
use crate::devices::irqchip::processor::{Activity, IrqchipProcessor, NMI, Start};
use crate::devices::irqchip::{Interrupt, SharedIrqchip};
use crate::machine::Machine;
use crate::machine::board::Board;
use crate::machine::end::{End, Suspend};
use crate::machine::error::Error;
use crate::machine::observer::InterruptView;
use crate::machine::processor::Processor;
use crate::machine::processors::Processors;
use crate::machine::run_loop::RunControl;
use crate::machine::smp::Ended;
use crate::machine::suspend;
use crate::machine::turn::ExitOutcome;

/// Time that a vCPU runs while another one waits.
const TIME_SLICE: Duration = Duration::from_millis(1);
/// Time between two looks at the input of devices while a vCPU runs.
const INPUT_INTERVAL: Duration = Duration::from_millis(10);
/// Shortest time to a kick, unless the vCPU makes no progress.
const MIN_KICK_DELAY: Duration = Duration::from_micros(50);
/// Longest time by which a kick is put off for a vCPU that makes no progress.
const MAX_KICK_DELAY: Duration = Duration::from_millis(20);
/// Longest sleep: a signal between the check of the limits and `poll` does not end it.
const MAX_SLEEP: Duration = Duration::from_millis(50);

/// Runs the machine until it ends, dies, or is stopped by a limit.
pub(crate) fn run(machine: &mut Machine, control: &mut RunControl<'_, '_>) -> Result<Ended, Error> {
    let Machine { board, processors, suspend_times, .. } = machine;
    // Such a machine has them; one without is halted from the beginning.
    let Some(irqchip) = board.irqchip.clone() else {
        return Ok((End::Halt { interrupts: false }, 0));
    };
    let mut scheduler = Scheduler::new(board, irqchip)?;
    loop {
        let now = scheduler.advance();
        scheduler.poll_input(now)?;
        let Some(next) = scheduler.next_runnable(processors) else {
            if let Some(end) = scheduler.sleep(processors, control)? {
                return Ok((end, 0));
            }
            continue;
        };
        match scheduler.run_slice(processors, next, control)? {
            None => {}
            Some(End::Suspend(Suspend::Until(wake))) => {
                let began = Instant::now();
                let end = scheduler.suspend(processors, wake, control)?;
                suspend_times.total += began.elapsed();
                suspend_times.suspended = end.is_some();
                if let Some(end) = end {
                    return Ok((end, 0));
                }
            }
            Some(end) => return Ok((end, next)),
        }
    }
}

/// Kicks of a vCPU. On a slow host, or under a debugger, one can come before `KVM_RUN` has entered the guest, each time.
#[derive(Clone)]
struct Kicks {
    /// Shortest time to the next one.
    delay: Duration,
    /// RIP if the last exit was a kick.
    rip: Option<u64>,
}

/// Clock, timer and turn of the vCPUs.
struct Scheduler<'a> {
    board: &'a Board,
    irqchip: SharedIrqchip,
    /// Time of the controllers when the run began, and that moment.
    started: (u64, Instant),
    /// Kicks the vCPU that runs, at `kick_at`.
    timer: KickTimer,
    kick_at: u64,
    /// Kicks of each vCPU.
    kicks: Vec<Kicks>,
    /// Time of the next look at the input.
    input_due: u64,
    /// Input of each device of [`Board::input_sources`], as of its last look.
    inputs: Vec<InputStatus>,
    /// vCPU that ran last.
    last: usize,
}

impl<'a> Scheduler<'a> {
    fn new(board: &'a Board, irqchip: SharedIrqchip) -> Result<Self, Error> {
        let started = (irqchip.lock().now(), Instant::now());
        let timer = KickTimer::new(INPUT_INTERVAL)?;
        let kick_at = started.0.saturating_add(nanoseconds(INPUT_INTERVAL));
        let inputs = vec![InputStatus::Consumed; board.input_sources.len()];
        let kicks = vec![Kicks { delay: MIN_KICK_DELAY, rip: None }; irqchip.lock().vcpus()];
        Ok(Self { board, irqchip, started, timer, kick_at, kicks, input_due: started.0, inputs, last: 0 })
    }

    /// Gives the present time to the controllers, and returns it.
    fn advance(&self) -> u64 {
        let (before, start) = self.started;
        let now = before.saturating_add(nanoseconds(start.elapsed()));
        let mut irqchip = self.irqchip.lock();
        irqchip.advance(now);
        irqchip.now()
    }

    /// Takes the input of all devices if it is time to.
    fn poll_input(&mut self, now: u64) -> Result<(), Error> {
        if now < self.input_due || self.board.input_sources.is_empty() {
            return Ok(());
        }
        self.input_due = now.saturating_add(nanoseconds(INPUT_INTERVAL));
        for (source, status) in self.board.input_sources.iter().zip(&mut self.inputs) {
            if *status == InputStatus::Closed {
                continue;
            }
            let mut ready = [PollFd::new(&source.fd, PollFlags::IN)];
            match poll(&mut ready, Some(&Timespec::default())) {
                Ok(0) | Err(Errno::INTR) => *status = InputStatus::Consumed,
                Ok(_) => {
                    let mut device = source.device.lock().unwrap_or_else(PoisonError::into_inner);
                    *status = device.poll_input().map_err(Error::Console)?;
                    if *status == InputStatus::Consumed {
                        // There may be more.
                        self.input_due = now;
                    }
                }
                Err(error) => return Err(Error::Console(error.into())),
            }
        }
        Ok(())
    }

    /// Returns the next vCPU after the last one that has instructions to execute.
    fn next_runnable(&self, processors: &Processors) -> Option<usize> {
        let count = processors.iter().count();
        let irqchip = self.irqchip.lock();
        (1..=count).map(|step| (self.last + step) % count).find(|number| irqchip.is_runnable(*number))
    }

    /// Runs a vCPU until it halts or its time is over; `Some` if the run ended.
    fn run_slice(
        &mut self,
        processors: &mut Processors,
        number: usize,
        control: &mut RunControl<'_, '_>,
    ) -> Result<Option<End>, Error> {
        self.last = number;
        let total: u64 = processors.iter().map(|processor| processor.exits.total()).sum();
        let Some(processor) = processors.iter_mut().nth(number) else { return Ok(None) };
        control.other_exits = total.saturating_sub(processor.exits.total());
        if let Some(start) = self.irqchip.lock().processor_mut(number).and_then(IrqchipProcessor::take_start)
        {
            processor.discard_instruction(self.board)?;
            processor.reset_registers(match start {
                Start::ResetVector => None,
                Start::Page(page) => Some((u16::from(page) << 8, 0)),
            })?;
        }
        let slice_end = self.irqchip.lock().now().saturating_add(nanoseconds(TIME_SLICE));
        loop {
            if let Some(end) = self.deliver(processor, number, control)? {
                return Ok(Some(end));
            }
            self.set_timer(slice_end)?;
            let exit = processor.vcpu.run()?;
            self.adapt_kick_delay(processor, number, &exit)?;
            let now = self.advance();
            if let Some(apic_base) = processor.vcpu.apic_base() {
                self.irqchip.lock().set_registers(number, processor.vcpu.cr8(), apic_base);
            }
            match processor.handle_exit(self.board, &exit, control)? {
                ExitOutcome::Ended(End::Halt { interrupts }) => {
                    if let Some(state) = self.irqchip.lock().processor_mut(number) {
                        state.halt(interrupts);
                    }
                    return Ok(None);
                }
                ExitOutcome::Ended(end) => return Ok(Some(end)),
                ExitOutcome::Served | ExitOutcome::Ignored | ExitOutcome::Debug(_) => {}
            }
            self.poll_input(now)?;
            let irqchip = self.irqchip.lock();
            let waits = |other: usize| other != number && irqchip.is_runnable(other);
            if !irqchip.is_runnable(number) || now >= slice_end && (0..irqchip.vcpus()).any(waits) {
                return Ok(None);
            }
        }
    }

    /// Doubles the shortest time to a kick of a vCPU that stands where the last one met it; otherwise halves it.
    fn adapt_kick_delay(&mut self, processor: &Processor, number: usize, exit: &Exit) -> Result<(), Error> {
        let rip = if *exit == Exit::Interrupted { Some(processor.vcpu.regs()?.rip) } else { None };
        let Some(kicks) = self.kicks.get_mut(number) else { return Ok(()) };
        let is_stuck = rip.is_some() && kicks.rip == rip;
        let delay = if is_stuck { kicks.delay * 2 } else { kicks.delay / 2 };
        *kicks = Kicks { delay: delay.clamp(MIN_KICK_DELAY, MAX_KICK_DELAY), rip };
        Ok(())
    }

    /// Queues the interrupt that the vCPU takes next, or makes `KVM_RUN` return when it takes one. `Some` if an observer ended the run.
    fn deliver(
        &self,
        processor: &mut Processor,
        number: usize,
        control: &mut RunControl<'_, '_>,
    ) -> Result<Option<End>, Error> {
        let mut irqchip = self.irqchip.lock();
        let vcpu = &mut processor.vcpu;
        let show = |Interrupt { vector, source }, vcpu: &Vcpu, control: &mut RunControl<'_, '_>| {
            let view = InterruptView { vector, source, vcpu, memory: &self.board.memory };
            control.observers.iter_mut().find_map(|observer| observer.on_interrupt(&view))
        };
        if irqchip.processor(number).is_some_and(IrqchipProcessor::has_nmi) {
            let nmi = Interrupt { vector: NMI, source: irqchip.source_of(number, NMI) };
            if let Some(end) = show(nmi, vcpu, control) {
                return Ok(Some(end));
            }
            irqchip.acknowledge_nmi(number);
            vcpu.inject_nmi()?;
        }
        let mut waits = irqchip.pending(number).is_some();
        // HLT ends what STI before it holds back, which not all hosts tell.
        let is_halted = irqchip.processor(number).is_some_and(|state| state.is_halted());
        if waits && (vcpu.is_ready_for_interrupt() || is_halted) {
            let next = irqchip.next_interrupt(number);
            if let Some(end) = next.and_then(|next| show(next, vcpu, control)) {
                return Ok(Some(end));
            }
            if let Some(Interrupt { vector, .. }) = irqchip.acknowledge(number) {
                vcpu.inject_interrupt(vector)?;
            }
            waits = irqchip.pending(number).is_some();
        }
        if let Some(state) = irqchip.processor_mut(number) {
            state.wake();
        }
        vcpu.set_cr8(irqchip.cr8(number));
        vcpu.request_interrupt_window(waits);
        Ok(None)
    }

    /// Sets the kick to the next time at which something may have to be done.
    fn set_timer(&mut self, slice_end: u64) -> Result<(), Error> {
        let irqchip = self.irqchip.lock();
        let others = (0..irqchip.vcpus()).any(|other| other != self.last && irqchip.is_runnable(other));
        let slice_end = others.then_some(slice_end);
        let has_input = self.inputs.iter().any(|status| *status != InputStatus::Closed);
        let input = has_input.then_some(self.input_due);
        let due = [irqchip.next_event(), slice_end, input].into_iter().flatten().min().unwrap_or(u64::MAX);
        // A guest can ask for far more interrupts of a timer than it can take.
        let delay = self.kicks.get(self.last).map_or(MIN_KICK_DELAY, |kicks| kicks.delay);
        let due = due.max(irqchip.now().saturating_add(nanoseconds(delay)));
        if self.kick_at <= irqchip.now() || due.abs_diff(self.kick_at) > nanoseconds(MIN_KICK_DELAY) {
            self.kick_at = due;
            self.timer.reset(Duration::from_nanos(due.saturating_sub(irqchip.now())))?;
        }
        Ok(())
    }

    /// Suspends the machine until a time since the epoch, and wakes it; `Some` if the run ended before.
    fn suspend(
        &mut self,
        processors: &mut Processors,
        wake: Duration,
        control: &RunControl<'_, '_>,
    ) -> Result<Option<End>, Error> {
        let total: u64 = processors.iter().map(|processor| processor.exits.total()).sum();
        let check_end = || control.limits.check(&Exit::Interrupted, || total);
        if let Some(end) = suspend::sleep(wake, check_end)? {
            return Ok(Some(end));
        }
        let (segment, offset) = match suspend::wake_address(self.board) {
            Ok(address) => address,
            Err(end) => return Ok(Some(end)),
        };
        self.irqchip.lock().reset();
        for (number, processor) in processors.iter_mut().enumerate() {
            processor.discard_instruction(self.board)?;
            processor.reset_registers((number == 0).then_some((segment, offset)))?;
        }
        Ok(None)
    }

    /// Sleeps until a timer is due or input comes; `Some` if the run ended, because nothing can come or because of a limit.
    fn sleep(
        &mut self,
        processors: &Processors,
        control: &mut RunControl<'_, '_>,
    ) -> Result<Option<End>, Error> {
        let total = || processors.iter().map(|processor| processor.exits.total()).sum();
        if let Some(end) = control.limits.check(&Exit::Interrupted, total) {
            return Ok(Some(end));
        }
        let (next, now, by_device) = {
            let irqchip = self.irqchip.lock();
            (irqchip.next_event(), irqchip.now(), irqchip.has_unmasked_input())
        };
        if !self.can_wake(processors, next, by_device) {
            let interrupts = matches!(
                self.irqchip.lock().processor(0).map(|state| state.activity()),
                Some(Activity::Halted { interrupts: true })
            );
            return Ok(Some(End::Halt { interrupts }));
        }
        // A device that is full is looked at later; its descriptor would end each sleep.
        let full = self.inputs.contains(&InputStatus::Full).then_some(self.input_due);
        let due = [next, full].into_iter().flatten().min();
        let left = due.map_or(MAX_SLEEP, |due| Duration::from_nanos(due.saturating_sub(now)).min(MAX_SLEEP));
        let sources = self.board.input_sources.iter().zip(&self.inputs);
        let mut fds: Vec<PollFd<'_>> = sources
            .filter(|(_, status)| **status == InputStatus::Consumed)
            .map(|(source, _)| PollFd::new(&source.fd, PollFlags::IN))
            .collect();
        match poll(&mut fds, Timespec::try_from(left).ok().as_ref()) {
            Ok(ready) => {
                if ready > 0 {
                    self.input_due = 0;
                }
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(Error::Clock(error.into())),
        }
        Ok(None)
    }

    /// Returns true if a timer or a device can wake one of the vCPUs, none of which is runnable.
    fn can_wake(&self, processors: &Processors, next: Option<u64>, by_device: bool) -> bool {
        let irqchip = self.irqchip.lock();
        let takes_interrupts = |number: usize| {
            irqchip
                .processor(number)
                .is_some_and(|state| matches!(state.activity(), Activity::Halted { interrupts: true }))
        };
        (next.is_some() || by_device) && (0..processors.iter().count()).any(takes_interrupts)
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
