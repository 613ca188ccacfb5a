//! A stand-in of the admin API of Supabase Auth, after `internal/api/admin.go`, `pagination.go` and
//! `models/user.go` of supabase/auth: offset pages, `Link` and `X-Total-Count`, a merge of `app_metadata`,
//! and errors as `{code, error_code, msg}`. A seed decides which requests fail and which users change.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{Method, Request, Response, StatusCode, header};
use futures_util::stream;
use http_body_util::BodyExt as _;
use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::{Rfc2822, Rfc3339};
use url::Url;
use uuid::Uuid;

pub const KEY: &str = "sb_secret_never_to_be_shown_0123456789";

/// One request among this many fails.
const FAULT_EVERY: u32 = 12;

#[derive(Clone, Debug)]
pub struct StoredUser {
    pub id: Uuid,
    pub created_at: OffsetDateTime,
    pub metadata: Map<String, Value>,
    pub banned_until: Option<OffsetDateTime>,
    pub deleted_at: Option<OffsetDateTime>,
    pub is_anonymous: bool,
    /// Keys beside `org_id`, as the application wrote them.
    pub others: Map<String, Value>,
}

#[derive(Default)]
pub struct World {
    /// In the order of their creation.
    pub users: Vec<StoredUser>,
    pub requests: u64,
    /// Requested pages.
    pub pages: Vec<usize>,
    pub writes: u64,
    /// Whether requests fail.
    pub has_faults: bool,
    /// Changes of users that are still to come.
    pub changes_left: u32,
    /// Users to delete after the next list of any page.
    pub delete_after_list: Vec<Uuid>,
    /// Answer to every request.
    pub only_answer: Option<(u16, Value)>,
    retry_afters: u32,
    random: Option<fastrand::Rng>,
}

#[derive(Clone)]
pub struct StandIn {
    pub addr: SocketAddr,
    world: Arc<Mutex<World>>,
}

enum Fault {
    Answer(StatusCode, Option<String>),
    Hang,
    Cut,
}

impl StandIn {
    pub async fn start(users: Vec<StoredUser>, seed: u64) -> Self {
        let random = Some(fastrand::Rng::with_seed(seed));
        let world = Arc::new(Mutex::new(World { users, random, ..World::default() }));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let this = Self { addr: listener.local_addr().expect("an address"), world };
        let router = Router::new().fallback(answer).with_state(this.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        this
    }

    pub fn url(&self) -> String {
        format!("http://{}/auth/v1", self.addr)
    }

    pub fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().expect("no test panics with the lock")
    }

    pub fn org_of(&self, user: Uuid) -> Option<Value> {
        let world = self.world();
        world.users.iter().find(|one| one.id == user)?.metadata.get("org_id").cloned()
    }
}

impl StoredUser {
    /// A user that was created at this second of the past.
    pub fn new(second: i64) -> Self {
        let others = json!({"provider": "email", "providers": ["email"], "plan": {"seats": second}});
        let others = others.as_object().expect("an object").clone();
        Self {
            id: Uuid::new_v4(),
            created_at: OffsetDateTime::from_unix_timestamp(1_700_000_000 + second).expect("a time"),
            metadata: others.clone(),
            banned_until: None,
            deleted_at: None,
            is_anonymous: false,
            others,
        }
    }

    fn json(&self) -> Value {
        let time = |time: OffsetDateTime| time.format(&Rfc3339).expect("formats");
        let mut user = json!({
            "id": self.id, "aud": "authenticated", "role": "authenticated", "email": format!("{}@example.com", self.id),
            "phone": "", "app_metadata": self.metadata, "user_metadata": {"org_id": "not to be read"},
            "identities": null, "created_at": time(self.created_at), "updated_at": time(self.created_at),
            "is_anonymous": self.is_anonymous,
        });
        if let Some(until) = self.banned_until {
            user["banned_until"] = time(until).into();
        }
        if let Some(at) = self.deleted_at {
            user["deleted_at"] = time(at).into();
        }
        user
    }

    pub fn is_banned(&self) -> bool {
        self.banned_until.is_some_and(|until| until > OffsetDateTime::now_utc())
    }

    pub fn is_active(&self) -> bool {
        !self.is_banned() && self.deleted_at.is_none() && !self.is_anonymous
    }
}

impl World {
    fn fault(&mut self) -> Option<Fault> {
        let random = self.random.as_mut()?;
        if !self.has_faults || random.u32(0..FAULT_EVERY) != 0 {
            return None;
        }
        Some(match random.u32(0..20) {
            0..=5 => Fault::Answer(StatusCode::INTERNAL_SERVER_ERROR, None),
            6..=7 => Fault::Answer(StatusCode::BAD_GATEWAY, None),
            8..=12 => {
                self.retry_afters += 1;
                let soon = OffsetDateTime::now_utc() + Duration::from_secs(1);
                // A pause lasts a second, so there are few.
                let after = match self.retry_afters {
                    1 => Some("1".to_owned()),
                    2 => Some(soon.format(&Rfc2822).expect("formats").replace("+0000", "GMT")),
                    n if n % 2 == 0 => Some("0".to_owned()),
                    _ => None,
                };
                Fault::Answer(StatusCode::TOO_MANY_REQUESTS, after)
            }
            13 => Fault::Hang,
            _ => Fault::Cut,
        })
    }

    /// Creates, changes, bans or deletes a user, as the application and its users do meanwhile.
    fn change(&mut self) {
        let Some(random) = &mut self.random else { return };
        if self.changes_left == 0 || random.bool() {
            return;
        }
        self.changes_left -= 1;
        let index = random.usize(0..self.users.len());
        match random.u32(0..5) {
            0 | 1 => {
                self.users.remove(index);
            }
            2 => {
                let mut user = StoredUser::new(0);
                user.created_at = OffsetDateTime::now_utc();
                self.users.push(user);
            }
            3 => {
                let user = &mut self.users[index];
                let value = json!({"changed": random.u32(..)});
                user.metadata.insert("plan".into(), value.clone());
                user.others.insert("plan".into(), value);
            }
            _ => self.users[index].banned_until = Some(OffsetDateTime::now_utc() + Duration::from_secs(3600)),
        }
    }

    fn list(&mut self, url: &Url) -> Response<Body> {
        let query =
            |name: &str| url.query_pairs().find(|(key, _)| key == name).map(|(_, value)| value.into_owned());
        let number = |name: &str, default: usize| query(name).map_or(Ok(default), |text| text.parse());
        let (Ok(page), Ok(per_page)) = (number("page", 1), number("per_page", 50)) else {
            return error(StatusCode::BAD_REQUEST, "validation_failed", "Bad Pagination Parameters");
        };
        self.pages.push(page);
        let mut users: Vec<&StoredUser> = self.users.iter().collect();
        // `created_at` descending without the parameter.
        match query("sort").as_deref() {
            Some("created_at asc") => users.sort_by_key(|user| user.created_at),
            _ => users.sort_by_key(|user| std::cmp::Reverse(user.created_at)),
        }
        let total = users.len();
        let pages = total.div_ceil(per_page);
        let users: Vec<Value> =
            users.iter().skip((page - 1) * per_page).take(per_page).map(|user| user.json()).collect();
        let last = format!("</admin/users?page={pages}&per_page={per_page}>; rel=\"last\"");
        let next = format!("</admin/users?page={}&per_page={per_page}>; rel=\"next\", ", page + 1);
        let link = if pages > page { next + &last } else { last };
        let response = Response::builder().header("Link", link).header("X-Total-Count", total);
        let body = json!({"users": users, "aud": "authenticated"}).to_string();
        if let Some(deleted) = self.delete_after_list.pop() {
            self.users.retain(|user| user.id != deleted);
        }
        response.header(header::CONTENT_TYPE, "application/json").body(body.into()).expect("a response")
    }

    fn user(&mut self, method: &Method, id: &str, body: &Bytes) -> Response<Body> {
        let Ok(id) = id.parse::<Uuid>() else {
            return error(StatusCode::NOT_FOUND, "validation_failed", "user_id must be an UUID");
        };
        let Some(user) = self.users.iter_mut().find(|user| user.id == id) else {
            return error(StatusCode::NOT_FOUND, "user_not_found", "User not found");
        };
        if method == Method::PUT {
            self.writes += 1;
            let body: Value = serde_json::from_slice(body).expect("JSON");
            for (key, value) in body["app_metadata"].as_object().expect("an object") {
                if value.is_null() {
                    user.metadata.remove(key);
                } else {
                    user.metadata.insert(key.clone(), value.clone());
                }
            }
        }
        let response = Response::builder().header(header::CONTENT_TYPE, "application/json");
        response.body(user.json().to_string().into()).expect("a response")
    }
}

async fn answer(State(this): State<StandIn>, request: Request<Body>) -> Response<Body> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let (fault, response) = {
        let mut world = this.world();
        world.requests += 1;
        if let Some((status, body)) = &world.only_answer {
            let status = StatusCode::from_u16(*status).expect("a status");
            return Response::builder().status(status).body(body.to_string().into()).expect("a response");
        }
        let bearer = format!("Bearer {KEY}");
        if head.headers.get("apikey").is_none_or(|value| value != KEY)
            || head.headers.get(header::AUTHORIZATION).is_none_or(|value| *value != bearer)
        {
            return error(
                StatusCode::UNAUTHORIZED,
                "no_authorization",
                "This endpoint requires a Bearer token",
            );
        }
        let fault = world.fault();
        if let Some(Fault::Answer(status, retry_after)) = fault {
            let code = if status == 429 { "over_request_rate_limit" } else { "unexpected_failure" };
            let mut response = error(status, code, "a fault");
            if let Some(value) = retry_after {
                response.headers_mut().insert(header::RETRY_AFTER, value.parse().expect("a value"));
            }
            return response;
        }
        let url = Url::parse(&format!("http://stand.in{}", head.uri)).expect("a URL");
        let response = match url.path().strip_prefix("/auth/v1/admin/users") {
            Some("") => world.list(&url),
            Some(id) => world.user(&head.method, id.trim_start_matches('/'), &body),
            None => error(StatusCode::NOT_FOUND, "", "404 page not found"),
        };
        world.change();
        (fault, response)
    };
    match fault {
        // The request has its effect, and its answer is lost.
        Some(Fault::Hang) => std::future::pending().await,
        Some(_) => {
            let cut = [Ok(Bytes::from_static(b"{\"id\"")), Err(std::io::Error::other("cut"))];
            Response::new(Body::from_stream(stream::iter(cut)))
        }
        None => response,
    }
}

fn error(status: StatusCode, code: &str, msg: &str) -> Response<Body> {
    let body = json!({"code": status.as_u16(), "error_code": code, "msg": msg});
    Response::builder().status(status).body(body.to_string().into()).expect("a response")
}
