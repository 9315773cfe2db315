//! What a step comes to: one future for all of them, boxed only where it waits.

use crate::body::Body;
use http::Response;
use pin_project_lite::pin_project;
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

pin_project! {
    /// An answer of the step's own, the rest of the way, or either of them after it has waited for something.
    #[project = Progress]
    pub enum Verdict<F> {
        Answer { response: Option<Response<Body>> },
        Onward { #[pin] rest: F },
        Waiting { rest: Boxed },
    }
}

/// A future behind a pointer, for the steps that wait.
pub type Boxed = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

impl<F> Verdict<F> {
    pub fn answer(response: Response<Body>) -> Verdict<F> {
        Verdict::Answer { response: Some(response) }
    }
}

impl<F> Future for Verdict<F>
where
    F: Future<Output = Result<Response<Body>, Infallible>>,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        match self.project() {
            Progress::Answer { response } => {
                Poll::Ready(Ok(response.take().expect("a future is not polled after it is done")))
            }
            Progress::Onward { rest } => rest.poll(cx),
            Progress::Waiting { rest } => rest.as_mut().poll(cx),
        }
    }
}
