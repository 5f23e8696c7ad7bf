//! Progress of an image during an attempt: the driver is polled while the container step waits for its image, and the stage
//! shows how far it is.

use std::time::Duration;

use fsa_driver::Region;
use fsa_model::{Image, condition::ImageProgress};

use super::{apply_step::ReadyStep, step::Action};

/// How often the driver is asked.
const INTERVAL: Duration = Duration::from_secs(1);

/// The image of a plan, and the progress that was reported last.
pub(super) struct ImageWatch {
    image: Option<Image>,
    shown: Option<ImageProgress>,
}

impl ImageWatch {
    /// Watches the image that the steps need, if they start a container.
    pub(super) fn of(steps: &[ReadyStep]) -> Self {
        let image = steps.iter().find_map(|step| match &step.action {
            Action::EnsureContainer(spec) => Some(spec.image.clone()),
            _ => None,
        });
        Self { image, shown: None }
    }

    /// The next progress that is worth an event; never ready without an image.
    pub(super) async fn next(&mut self, region: &Region) -> ImageProgress {
        let Some(image) = &self.image else {
            return std::future::pending().await;
        };
        loop {
            tokio::time::sleep(INTERVAL).await;
            if let Some(progress) = region.driver.image_progress(image)
                && self.shown.is_none_or(|shown| progress.is_news_after(shown))
            {
                self.shown = Some(progress);
                return progress;
            }
        }
    }
}
