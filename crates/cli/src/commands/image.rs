//! `fsa image`.

use fsa_model::api::{ImageInfo, Page};
use reqwest::{Body, Method, header};
use tokio_util::io::ReaderStream;

use crate::{
    args::Image,
    client::{self, Client, encode},
    failure::{Failure, Outcome},
    output,
};

pub async fn run(client: &Client, command: Image, json: bool) -> Outcome {
    match command {
        Image::Import { file, name } => {
            let name = match name {
                Some(name) => name,
                None => file
                    .file_name()
                    .and_then(|name| name.to_str())
                    .and_then(|name| name.split('.').next())
                    .map(str::to_owned)
                    .ok_or_else(|| Failure::usage("name the image with --name"))?,
            };
            let archive = tokio::fs::File::open(&file)
                .await
                .map_err(|error| Failure::usage(format!("{} cannot be opened: {error}", file.display())))?;
            let length = archive.metadata().await?.len();
            let request = client
                .request(Method::POST, &format!("/api/images?name={}", encode(&name)))
                .header(header::CONTENT_TYPE, "application/x-tar")
                .header(header::CONTENT_LENGTH, length)
                .body(Body::wrap_stream(ReaderStream::with_capacity(
                    archive,
                    256 * 1024,
                )));
            let answer = client::checked(request).await?.bytes().await?;
            let image: ImageInfo = serde_json::from_slice(&answer)
                .map_err(|error| Failure::failed(format!("the server's answer cannot be read: {error}")))?;
            output::print(json, &image, |image| {
                output::line(&format!(
                    "Imported {}: {} layers, {}",
                    image.name,
                    image.layers,
                    megabytes(image.size)
                ));
            });
        }
        Image::Remove { name } => {
            client::checked(client.request(Method::DELETE, &format!("/api/images/{}", encode(&name))))
                .await?;
            output::notice(&format!(
                "Removed {name}. Its files follow once no sandbox needs them."
            ));
        }
        Image::List => {
            let images: Page<ImageInfo> = client.get("/api/images").await?;
            output::print(json, &images, |images| {
                output::table(
                    &["NAME", "SIZE", "LAYERS", "AGE"],
                    images.items.iter().map(|image| {
                        vec![
                            image.name.clone(),
                            megabytes(image.size),
                            image.layers.to_string(),
                            output::age(image.imported_at),
                        ]
                    }),
                );
            });
        }
    }
    Ok(0)
}

fn megabytes(bytes: u64) -> String {
    format!("{} MB", bytes.div_ceil(1_000_000))
}
