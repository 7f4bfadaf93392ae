//! Writes events to standard error as lines, and to a trace file, or keeps the last ones for later.
//!
//! Lines are written whole, so that they do not split the guest's output on a terminal.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::event::TraceEvent;
use super::trace_event::TraceFile;
use crate::output_file::OutputFile;

/// Destinations of a kind of event.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct EventSinks {
    /// Lines on standard error.
    pub(crate) shown: bool,
    /// Trace file.
    pub(crate) filed: bool,
}

impl EventSinks {
    /// Returns true if there is any destination.
    pub(crate) fn any(self) -> bool {
        self.shown || self.filed
    }
}

/// Settings of a log.
pub(crate) struct LogSettings {
    pub(crate) calls: EventSinks,
    pub(crate) exits: EventSinks,
    pub(crate) steps: EventSinks,
    /// True if lines are JSON.
    pub(crate) json: bool,
    /// Number of events to keep, if not all are written.
    pub(crate) last: Option<NonZeroUsize>,
}

/// Log of a run.
pub(crate) struct Log {
    pub(crate) settings: LogSettings,
    state: Mutex<LogState>,
}

struct LogState {
    lines: Box<dyn Write + Send>,
    file: Option<TraceFile<OutputFile>>,
    /// Last events for standard error and for the file, if only the last ones are written.
    shown: EventRing,
    filed: EventRing,
    /// True after the run: what an autopsy does is not part of it.
    over: bool,
    /// First error of the trace file. Nothing is written to it afterwards.
    error: Option<io::Error>,
}

/// The last events.
#[derive(Default)]
struct EventRing {
    events: VecDeque<Arc<TraceEvent>>,
    /// Number of events that were dropped.
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
    pub(crate) fn new(
        settings: LogSettings,
        lines: Box<dyn Write + Send>,
        file: Option<TraceFile<OutputFile>>,
    ) -> Self {
        let (shown, filed, over, error) = Default::default();
        Self { settings, state: Mutex::new(LogState { lines, file, shown, filed, over, error }) }
    }

    /// Logs an event.
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

    /// Writes the kept events and returns the complete file, if there is one. Later events are ignored, and so are further calls.
    ///
    /// # Errors
    /// Writing the trace file failed, now or earlier.
    pub(crate) fn finish(&self) -> io::Result<Option<OutputFile>> {
        let mut state = self.state();
        if std::mem::replace(&mut state.over, true) {
            return Ok(None);
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
        match (state.error.take(), state.file.take()) {
            (Some(error), _) => Err(error),
            (None, file) => file.map(TraceFile::finish).transpose(),
        }
    }

    fn show(&self, state: &mut LogState, event: &TraceEvent) {
        let line = if self.settings.json {
            // Nothing in it can fail to serialize: keys are strings, values plain.
            serde_json::to_string(event).unwrap_or_default() + "\n"
        } else {
            format!("{event}\n")
        };
        // Ignored: a closed standard error must not stop the guest.
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
