//! Layer unpacking by the runner.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use fsa_driver::DriverError;
use fsa_model::Failure;

use super::client::{Client, unexpected};
use crate::{
    images::{DiffId, LayerBlob, LayerUnpacker, UnpackedLayer},
    protocol::{Request, Response},
};

/// Timeout for a large layer on a slow disk.
const UNPACK_TIMEOUT: Duration = Duration::from_secs(3600);
const QUERY_TIMEOUT: Duration = Duration::from_secs(60);

/// [`LayerUnpacker`] by the runner.
pub struct RunnerLayers(pub Arc<Client>);

impl RunnerLayers {
    async fn call(&self, request: Request, timeout: Duration) -> Result<Response, Failure> {
        Ok(self.0.call(request, &[], timeout).await.map_err(failure)?.0)
    }
}

#[async_trait]
impl LayerUnpacker for RunnerLayers {
    async fn unpack(&self, layer: &LayerBlob) -> Result<UnpackedLayer, Failure> {
        match self
            .call(Request::UnpackLayer { layer: *layer }, UNPACK_TIMEOUT)
            .await?
        {
            Response::Unpacked(unpacked) => Ok(unpacked),
            other => Err(failure(unexpected(&other))),
        }
    }

    async fn missing(&self, among: &[DiffId]) -> Result<Vec<DiffId>, Failure> {
        layers(
            self.call(
                Request::MissingLayers {
                    layers: among.to_vec(),
                },
                QUERY_TIMEOUT,
            )
            .await?,
        )
    }

    async fn layers(&self) -> Result<Vec<DiffId>, Failure> {
        layers(self.call(Request::Layers, QUERY_TIMEOUT).await?)
    }

    async fn used(&self) -> Result<Vec<DiffId>, Failure> {
        layers(self.call(Request::UsedLayers, QUERY_TIMEOUT).await?)
    }

    async fn remove(&self, layer: &DiffId) -> Result<(), Failure> {
        match self
            .call(Request::RemoveLayer { layer: *layer }, UNPACK_TIMEOUT)
            .await?
        {
            Response::Done => Ok(()),
            other => Err(failure(unexpected(&other))),
        }
    }
}

fn layers(answer: Response) -> Result<Vec<DiffId>, Failure> {
    match answer {
        Response::Layers { layers } => Ok(layers),
        other => Err(failure(unexpected(&other))),
    }
}

fn failure(error: DriverError) -> Failure {
    error.failure
}
