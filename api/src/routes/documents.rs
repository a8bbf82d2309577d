//! `/v1/apps/{app}/documents`

use axum::extract::State;
use roster_storage::catalog::Document;
use roster_storage::command::{Command, DeleteDocument, PutDocument, Refusal, Reply};
use roster_storage::events::Event;
use roster_storage::names::DocumentName;
use roster_storage::version::Version;

use crate::Shared;
use crate::answer::{Answer, Answered};
use crate::error::{ApiError, Invalid, decided};
use crate::extract::{App, Caller, Content, DocumentKey, Params, Reading, When};
use crate::filter::Wanted;
use crate::lists::{Listed, Paging};
use crate::openapi::parameters::{ChangedBy, CreatingApp};
use crate::openapi::refusals::{
    BODY, DOCUMENT_EXISTS, LIST, PRECONDITION_FAILED, READ, Refused, UNKNOWN_APP, UNKNOWN_DOCUMENT,
    WRITE,
};
use crate::openapi::schemas::Tag;
use crate::openapi::shapes::AnyDocument;
use crate::poll::{
    Poll, changes_list, document_changed, documents_changed, of_document, of_documents,
};
use crate::wire::document::{DocumentChanged, DocumentList, DocumentView};

/// Lists the documents of an app, in the order of their names.
#[utoipa::path(
    get,
    path = "/v1/apps/{app}/documents",
    operation_id = "listDocuments",
    tag = "documents",
    params(App, Reading, Poll, Paging),
    responses(
        (status = 200, description = "A page of documents.", body = DocumentList),
        Refused::<{ LIST | UNKNOWN_APP }>,
    ),
)]
pub(super) async fn list(State(api): Shared, App(name): App, mut params: Params) -> Answered {
    let (reading, paging, poll) = (params.reading()?, params.paging()?, params.poll()?);
    params.end()?;
    if let Some(poll) = poll {
        paging.is_first()?;
        let known = |version: &Version, _| documents_changed(version, &name);
        let matters = |event: &Event| changes_list(event, &Wanted::default());
        api.await_change(poll, of_documents(&name), matters, known).await?;
    }
    let listed = Listed::new("documents", Some(name.clone()));
    let page = api.page(&listed, reading, paging).await?;
    let after = page.after.as_deref().map(DocumentName::new).transpose();
    let after = after.map_err(Invalid::name("cursor"))?;
    let app = page.catalog().app(&name).ok_or_else(|| Refusal::UnknownApp(name.clone()))?;
    let mut lines = app.documents_after(after.as_ref());
    let shown: Vec<_> = lines.by_ref().take(page.limit).collect();
    let last = lines.next().and(shown.last()).map(|(document, _)| document.as_str());
    let revision = page.version.revision();
    let list = DocumentList {
        next_cursor: last.map(|last| api.cursor(&page, &listed, last)),
        documents: shown.iter().map(|(n, d)| DocumentView::new(&name, n, d)).collect(),
        revision: revision.0,
    };
    Ok(Answer::json(&list).at(revision).read(page.consistency))
}

/// Reads a document.
#[utoipa::path(
    get,
    path = "/v1/apps/{app}/documents/{name}",
    operation_id = "readDocument",
    tag = "documents",
    params(DocumentKey, Reading, Poll),
    responses(
        (
            status = 200,
            description = "The document.",
            body = DocumentView,
            headers(("ETag" = Tag)),
        ),
        Refused::<{ READ | UNKNOWN_APP | UNKNOWN_DOCUMENT }>,
    ),
)]
pub(super) async fn read(State(api): Shared, key: DocumentKey, mut params: Params) -> Answered {
    let (reading, poll) = (params.reading()?, params.poll()?);
    params.end()?;
    if let Some(poll) = poll {
        let DocumentKey { app, name } = &key;
        let known = |version: &Version, index| document_changed(version, app, name, index);
        api.await_change(poll, of_document(app, name), |_| true, known).await?;
    }
    let version = api.read(reading).await?;
    let document = known(&version, &key)?;
    let view = DocumentView::new(&key.app, &key.name, document);
    let answer = Answer::json(&view).at(version.revision()).read(reading.consistency);
    Ok(answer.etag(document.revision))
}

fn known<'a>(version: &'a Version, key: &DocumentKey) -> Result<&'a Document, Refusal> {
    let DocumentKey { app, name } = key;
    let known = version.catalog.app(app).ok_or_else(|| Refusal::UnknownApp(app.clone()))?;
    let unknown = || Refusal::UnknownDocument { app: app.clone(), name: name.clone() };
    known.documents.get(name).map(|document| &**document).ok_or_else(unknown)
}

/// Writes a document as a whole.
///
/// At most 128 KiB each and 1 MiB per app, nested at most 100 levels deep.
#[utoipa::path(
    put,
    path = "/v1/apps/{app}/documents/{name}",
    operation_id = "putDocument",
    tag = "documents",
    params(DocumentKey, When, CreatingApp, ChangedBy),
    request_body = AnyDocument,
    responses(
        (
            status = 200,
            description = "It was replaced.",
            body = DocumentChanged,
            headers(("ETag" = Tag)),
        ),
        (
            status = 201,
            description = "It was made.",
            body = DocumentChanged,
            headers(("ETag" = Tag)),
        ),
        Refused::<{ WRITE | BODY | UNKNOWN_APP | DOCUMENT_EXISTS | PRECONDITION_FAILED }>,
    ),
)]
pub(super) async fn put(
    State(api): Shared,
    key: DocumentKey,
    When(condition): When,
    caller: Caller,
    mut params: Params,
    content: Content,
) -> Answered {
    let create_app = params.flag("create_app")?.unwrap_or(true);
    let by = params.by(caller)?;
    params.end()?;
    let value = content.document()?.into_text().into();
    let DocumentKey { app, name } = key.clone();
    let command = PutDocument { app, name, value, by, create_app, condition };
    match decided(api.registry.propose(Command::PutDocument(command)).await?)? {
        (revision, Reply::DocumentPut { created }) => {
            let view = DocumentChanged::new(&key.app, &key.name, revision);
            Ok(Answer::json(&view).created(created).at(revision).etag(revision))
        }
        (_, other) => Err(ApiError::unexpected(&other)),
    }
}

/// Deletes a document.
#[utoipa::path(
    delete,
    path = "/v1/apps/{app}/documents/{name}",
    operation_id = "deleteDocument",
    tag = "documents",
    params(DocumentKey, When, ChangedBy),
    responses(
        (status = 200, description = "It is gone.", body = DocumentChanged),
        Refused::<{
            WRITE | UNKNOWN_APP | UNKNOWN_DOCUMENT | DOCUMENT_EXISTS | PRECONDITION_FAILED
        }>,
    ),
)]
pub(super) async fn delete(
    State(api): Shared,
    key: DocumentKey,
    When(condition): When,
    caller: Caller,
    mut params: Params,
) -> Answered {
    let by = params.by(caller)?;
    params.end()?;
    let DocumentKey { app, name } = key.clone();
    let command = DeleteDocument { app, name, by, condition };
    match decided(api.registry.propose(Command::DeleteDocument(command)).await?)? {
        (revision, Reply::DocumentDeleted) => {
            let view = DocumentChanged::new(&key.app, &key.name, revision);
            Ok(Answer::json(&view).at(revision))
        }
        (_, other) => Err(ApiError::unexpected(&other)),
    }
}
