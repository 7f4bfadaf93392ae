//! Days since 1970 as a date of the Gregorian calendar.
//!
//! Years begin on the first of March, so the leap day is the last day of a year. 400 years always have the
//! same number of days, and a month begins after (153 m + 2) / 5 days, m counted from March (E. G. Richards, "Mapping
//! Time", chapter 25).

const DAY: u64 = 86_400;
/// Days of 400 years.
const ERA: u64 = 146_097;
/// Days from the first of March of the year 0 to the first of January 1970.
const EPOCH: u64 = 719_468;

/// Date and time in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Date {
    /// Year, 1970 or later.
    pub year: u64,
    /// Month, 1 to 12.
    pub month: u8,
    /// Day, 1 to 31.
    pub day: u8,
    /// Day of the week; 1 is Sunday.
    pub weekday: u8,
    /// Hour, 0 to 23.
    pub hour: u8,
    /// Minute, 0 to 59.
    pub minute: u8,
    /// Second, 0 to 59; Unix time has no leap seconds.
    pub second: u8,
}

/// Returns the date and time of a number of seconds since the Unix epoch.
#[must_use]
pub fn date(seconds: u64) -> Date {
    let (days, time) = (seconds / DAY, seconds % DAY);
    let since_march = days + EPOCH;
    let (era, day_of_era) = (since_march / ERA, since_march % ERA);
    // Each 4th year has a day more, each 100th has not, the 400th has.
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let (month, next_year) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    Date {
        year: era * 400 + year_of_era + next_year,
        month: small(month),
        day: small(day),
        // The epoch was a Thursday.
        weekday: small((days + 4) % 7 + 1),
        hour: small(time / 3600),
        minute: small(time / 60 % 60),
        second: small(time % 60),
    }
}

/// Converts a number below 60.
fn small(value: u64) -> u8 {
    u8::try_from(value).unwrap_or(u8::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(seconds: u64) -> String {
        let Date { year, month, day, weekday, hour, minute, second } = date(seconds);
        format!("{year}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} day {weekday}")
    }

    #[test]
    fn known_dates() {
        assert_eq!(shown(0), "1970-01-01 00:00:00 day 5");
        assert_eq!(shown(951_782_399), "2000-02-28 23:59:59 day 2");
        assert_eq!(shown(951_782_400), "2000-02-29 00:00:00 day 3");
        assert_eq!(shown(4_107_542_399), "2100-02-28 23:59:59 day 1");
        assert_eq!(shown(4_107_542_400), "2100-03-01 00:00:00 day 2", "no leap year");
        assert_eq!(shown(1_767_225_599), "2025-12-31 23:59:59 day 4");
    }

    #[test]
    fn each_day_follows_the_one_before() {
        let mut yesterday = date(0);
        for day in 1..200_000 {
            let today = date(day * DAY);
            assert_eq!(today.weekday, yesterday.weekday % 7 + 1);
            let next_in_month =
                (today.year, today.month, today.day) == (yesterday.year, yesterday.month, yesterday.day + 1);
            let next_month = today.day == 1
                && (28..=31).contains(&yesterday.day)
                && (today.year * 12 + u64::from(today.month))
                    == (yesterday.year * 12 + u64::from(yesterday.month) + 1);
            assert!(next_in_month || next_month, "{yesterday:?} {today:?}");
            yesterday = today;
        }
    }

    #[test]
    fn the_largest_number_is_some_date() {
        assert!(date(u64::MAX).year > 500_000_000_000);
    }
}
