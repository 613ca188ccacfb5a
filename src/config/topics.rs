//! Flags of topics: which need a claim.

use anyhow::ensure;
use clap::Args;

use crate::auth::is_topic;

#[derive(Args, Clone)]
#[command(next_help_heading = "Topics")]
pub(super) struct TopicArgs {
    /// Topics that a token must name in app_metadata.warden_topics to join them: recordings, org, or
    /// call:* for the topics of single calls
    #[arg(long, env = "WARDEN_TOPICS_NEED_CLAIM", value_name = "TOPIC", value_delimiter = ',')]
    topics_need_claim: Vec<String>,
}

impl TopicArgs {
    /// Checks the names.
    pub(super) fn into_topics(self) -> anyhow::Result<Vec<String>> {
        let topics: Vec<_> = self.topics_need_claim.into_iter().filter(|topic| !topic.is_empty()).collect();
        for (n, topic) in topics.iter().enumerate() {
            ensure!(
                is_topic(topic),
                "WARDEN_TOPICS_NEED_CLAIM: entry {} is not a topic: write names such as recordings, call:* or org",
                n + 1
            );
        }
        Ok(topics)
    }
}
