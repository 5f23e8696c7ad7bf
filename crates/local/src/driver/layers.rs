//! Unpacking layers, by way of the runner.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use fsa_driver::DriverError;
use fsa_model::Failure;

use super::client::{Client, unexpected};
use crate::{
    images::{DiffId, LayerBlob, LayerUnpacker, UnpackedLayer},
    protocol::{Request, Response},
};

/// A large layer on a slow disk.
const UNPACKING: Duration = Duration::from_secs(3600);
const PATIENCE: Duration = Duration::from_secs(60);

/// The runner as an unpacker of layers.
pub struct RunnerLayers(pub Arc<Client>);

impl RunnerLayers {
    async fn ask(&self, request: Request, patience: Duration) -> Result<Response, Failure> {
        Ok(self.0.call(request, &[], patience).await.map_err(failure)?.0)
    }
}

#[async_trait]
impl LayerUnpacker for RunnerLayers {
    async fn unpack(&self, layer: &LayerBlob) -> Result<UnpackedLayer, Failure> {
        match self
            .ask(Request::UnpackLayer { layer: *layer }, UNPACKING)
            .await?
        {
            Response::Unpacked(unpacked) => Ok(unpacked),
            other => Err(failure(unexpected(&other))),
        }
    }

    async fn missing(&self, wanted: &[DiffId]) -> Result<Vec<DiffId>, Failure> {
        layers(
            self.ask(
                Request::MissingLayers {
                    layers: wanted.to_vec(),
                },
                PATIENCE,
            )
            .await?,
        )
    }

    async fn layers(&self) -> Result<Vec<DiffId>, Failure> {
        layers(self.ask(Request::Layers, PATIENCE).await?)
    }

    async fn used(&self) -> Result<Vec<DiffId>, Failure> {
        layers(self.ask(Request::UsedLayers, PATIENCE).await?)
    }

    async fn remove(&self, layer: &DiffId) -> Result<(), Failure> {
        match self
            .ask(Request::RemoveLayer { layer: *layer }, UNPACKING)
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
