//! Content of simulated calls: numbers, ids and conversations. All of it is invented. Phone numbers are from
//! the range 555-0100 to 555-0199, which is reserved for fiction.

use std::fmt::Write as _;

/// Area codes. The reserved range exists in each of them.
const AREA_CODES: [u16; 10] = [202, 206, 212, 303, 312, 404, 415, 512, 617, 713];

/// A conversation and its outcome.
#[derive(Debug)]
pub(super) struct Story {
    pub(super) topic: &'static str,
    pub(super) assistant: &'static str,
    pub(super) summary: &'static str,
    /// Lines of the assistant and the caller alternately, beginning with the assistant.
    lines: &'static [&'static str],
    /// Sentiment of the call, from -1 (negative) to 1 (positive).
    pub(super) sentiment: f32,
    pub(super) success: bool,
    pub(super) ended_reason: &'static str,
}

pub(super) const STORIES: [Story; 7] = [
    Story {
        topic: "appointment",
        assistant: "asst_front_desk",
        summary: "Caller moved a dental cleaning from Tuesday to Thursday at 9:30 and asked for a text reminder.",
        lines: &[
            "Thanks for calling Maple Dental, how can I help?",
            "Hi, I need to move my cleaning on Tuesday.",
            "Of course. Thursday at 9:30 is free, would that work?",
            "Yes, perfect. Can you text me a reminder?",
            "Done. See you on Thursday!",
        ],
        sentiment: 0.8,
        success: true,
        ended_reason: "customer-ended-call",
    },
    Story {
        topic: "order status",
        assistant: "asst_orders",
        summary: "Caller asked where their order is. It arrives tomorrow before noon; tracking link sent.",
        lines: &[
            "Hello, this is the order desk. What can I do for you?",
            "My package should have been here yesterday.",
            "I see it: it left the depot this morning and arrives tomorrow before noon.",
            "Okay. Can I have the tracking link?",
            "I have just sent it to you.",
        ],
        sentiment: 0.2,
        success: true,
        ended_reason: "assistant-ended-call",
    },
    Story {
        topic: "billing",
        assistant: "asst_billing",
        summary: "Caller disputes a double charge. Handed over to the billing team with the invoice attached.",
        lines: &[
            "Billing, good afternoon.",
            "You charged me twice this month, and nobody answers my e-mails.",
            "I am sorry about that. I can see both charges and will connect you with a colleague.",
            "Finally. Please do.",
        ],
        sentiment: -0.6,
        success: false,
        ended_reason: "assistant-forwarded-call",
    },
    Story {
        topic: "table booking",
        assistant: "asst_restaurant",
        summary: "Table for four booked on Saturday at 19:00; one guest is allergic to nuts.",
        lines: &[
            "Trattoria Verde, would you like to book a table?",
            "Yes, four people on Saturday at seven.",
            "That works. Are there any allergies?",
            "One of us can't have nuts.",
            "Noted. We look forward to seeing you.",
        ],
        sentiment: 0.7,
        success: true,
        ended_reason: "customer-ended-call",
    },
    Story {
        topic: "technical support",
        assistant: "asst_support",
        summary: "Router kept losing its connection. A restart with the new firmware fixed it.",
        lines: &[
            "Support, what seems to be the trouble?",
            "The internet drops every few minutes.",
            "Your router runs old firmware. I have started the update; the lights will blink.",
            "They blink ... and now they are green. It's back!",
        ],
        sentiment: 0.5,
        success: true,
        ended_reason: "customer-ended-call",
    },
    Story {
        topic: "cancellation",
        assistant: "asst_retention",
        summary: "Caller wants to cancel at the end of the term. Offer declined, confirmation sent.",
        lines: &[
            "Hello, how may I help you?",
            "I want to cancel my subscription.",
            "I can offer you three months at half the price.",
            "No, thank you. Just cancel it, please.",
            "It ends with this term. You get a confirmation by e-mail.",
        ],
        sentiment: -0.3,
        success: true,
        ended_reason: "assistant-ended-call",
    },
    Story {
        topic: "unclear",
        assistant: "asst_front_desk",
        summary: "The caller did not speak after the greeting; the call was ended.",
        lines: &["Hello, how can I help?", "...", "I can't hear you. Please call again."],
        sentiment: 0.0,
        success: false,
        ended_reason: "silence-timed-out",
    },
];

impl Story {
    pub(super) fn transcript(&self) -> String {
        let mut text = String::new();
        for (speaker, line) in ["AI", "User"].iter().cycle().zip(self.lines) {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{speaker}: {line}");
        }
        text
    }
}

/// Draws a phone number in E.164 form.
pub(super) fn phone_number() -> String {
    format!("+1{}55501{:02}", pick(&AREA_CODES), fastrand::u8(..100))
}

/// Draws an id in Twilio's form: `CA` (call) or `RE` (recording), and 32 hexadecimal digits.
pub(super) fn sid(kind: &str) -> String {
    format!("{kind}{:032x}", fastrand::u128(..))
}

/// Draws one of several values. The slice must not be empty.
pub(super) fn pick<T>(choices: &[T]) -> &T {
    &choices[fastrand::usize(..choices.len())]
}

/// Draws true with this probability.
pub(super) fn chance(probability: f64) -> bool {
    fastrand::f64() < probability
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_ids_are_well_formed() {
        for _ in 0..1000 {
            let number = phone_number();
            assert_eq!(number.len(), 12);
            assert_eq!(&number[5..10], "55501");
            assert_eq!(sid("CA").len(), 34);
        }
    }

    #[test]
    fn transcripts_alternate_and_values_are_in_range() {
        for story in &STORIES {
            assert!(story.transcript().starts_with("AI: "));
            assert!((-1.0..=1.0).contains(&story.sentiment));
        }
    }
}
