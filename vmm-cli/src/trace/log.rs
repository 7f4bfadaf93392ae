//! Where events go: to standard error as lines, to a trace file, or first into rings of the last ones.
//!
//! Lines are written one at a time and whole, so that they do not tear the guest's output where both go to a terminal.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::event::TraceEvent;
use super::trace_event::TraceFile;

/// What becomes of each kind of event.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct EventSinks {
    /// As a line.
    pub(crate) shown: bool,
    /// In the trace file.
    pub(crate) filed: bool,
}

impl EventSinks {
    /// Whether it is wanted at all.
    pub(crate) fn any(self) -> bool {
        self.shown || self.filed
    }
}

/// How a log is to be.
pub(crate) struct LogSettings {
    pub(crate) calls: EventSinks,
    pub(crate) exits: EventSinks,
    pub(crate) steps: EventSinks,
    /// Lines are JSON.
    pub(crate) json: bool,
    /// Only so many events are kept.
    pub(crate) last: Option<NonZeroUsize>,
}

/// Takes events from everywhere.
pub(crate) struct Log {
    pub(crate) settings: LogSettings,
    state: Mutex<LogState>,
}

struct LogState {
    lines: Box<dyn Write + Send>,
    file: Option<TraceFile>,
    /// What is to become lines, and what is to go to the file, where only the last events are asked for.
    shown: EventRing,
    filed: EventRing,
    /// Set when the run is over: what is done to explain it afterwards is not part of it.
    over: bool,
    /// The first thing that went wrong with the file; after it, nothing is written there.
    error: Option<io::Error>,
}

/// The last events.
#[derive(Default)]
struct EventRing {
    events: VecDeque<Arc<TraceEvent>>,
    /// How many there were before them.
    lost: u64,
}

impl EventRing {
    fn push(&mut self, event: &Arc<TraceEvent>, most: NonZeroUsize) {
        if self.events.len() >= most.get() {
            self.events.pop_front();
            self.lost = self.lost.saturating_add(1);
        }
        self.events.push_back(Arc::clone(event));
    }
}

impl Log {
    pub(crate) fn new(settings: LogSettings, lines: Box<dyn Write + Send>, file: Option<TraceFile>) -> Self {
        let (shown, filed, over, error) = Default::default();
        Self { settings, state: Mutex::new(LogState { lines, file, shown, filed, over, error }) }
    }

    /// Takes one event.
    pub(crate) fn push(&self, event: TraceEvent) {
        let wanted = match &event {
            TraceEvent::Call(_) => self.settings.calls,
            TraceEvent::Exit(_) => self.settings.exits,
            TraceEvent::Step(_) => self.settings.steps,
            TraceEvent::Note(_) => EventSinks { shown: true, filed: true },
        };
        let mut state = self.state();
        if state.over {
            return;
        }
        match self.settings.last {
            None => {
                if wanted.shown {
                    self.show(&mut state, &event);
                }
                if wanted.filed {
                    state.file(&event);
                }
            }
            Some(last) => {
                let event = Arc::new(event);
                if wanted.shown {
                    state.shown.push(&event, last);
                }
                if wanted.filed {
                    state.filed.push(&event, last);
                }
            }
        }
    }

    /// Writes what was kept, and ends the file. Events that come later are left out, and a second time does nothing.
    ///
    /// # Errors
    /// What writing the trace file ran into, now or earlier.
    pub(crate) fn finish(&self) -> io::Result<()> {
        let mut state = self.state();
        if std::mem::replace(&mut state.over, true) {
            return Ok(());
        }
        let EventRing { events, lost } = std::mem::take(&mut state.shown);
        if lost > 0 && !self.settings.json {
            let line = format!("the last {} events; {lost} before them are left out\n", events.len());
            let _ = state.lines.write_all(line.as_bytes());
        }
        for event in events {
            self.show(&mut state, &event);
        }
        for event in std::mem::take(&mut state.filed).events {
            state.file(&event);
        }
        let result = state.file.as_mut().map_or(Ok(()), TraceFile::finish);
        state.error.take().map_or(result, Err)
    }

    fn show(&self, state: &mut LogState, event: &TraceEvent) {
        let line = if self.settings.json {
            // Nothing in it can fail to be JSON: keys are strings, values plain.
            serde_json::to_string(event).unwrap_or_default() + "\n"
        } else {
            format!("{event}\n")
        };
        // A trace that nobody reads any more is no reason to stop the guest.
        let _ = state.lines.write_all(line.as_bytes());
    }

    fn state(&self) -> MutexGuard<'_, LogState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LogState {
    fn file(&mut self, event: &TraceEvent) {
        if self.error.is_none()
            && let Some(file) = &mut self.file
        {
            self.error = file.add(event).err();
        }
    }
}
