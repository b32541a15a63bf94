"""Settings of every Exchequer process: gateway workers, console, Celery, commands.

Everything comes from the environment. What the environment leaves out is read from
`.local/demo.env` and `.local/secrets.env`, which `make up` writes, so that `manage.py` talks to
the running demo without any export. os.environ itself is never changed here: whoever asks
"did the operator set DATABASE_URL?" gets a true answer.
"""

import os
from collections import ChainMap
from pathlib import Path

import environ
from django.utils.csp import CSP

from governance.core.database_url import django_database

BASE_DIR = Path(__file__).resolve().parent.parent
STATE_DIR = Path(os.environ.get("EXCHEQUER_STATE_DIR", BASE_DIR / ".local"))


def read_env_file(path: Path) -> dict[str, str]:
    """KEY=value lines; no quoting, no expansion. A missing file is an empty one."""
    if not path.exists():
        return {}
    lines = (line.strip() for line in path.read_text().splitlines())
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


env = environ.Env()
env.ENVIRON = ChainMap(
    os.environ,
    read_env_file(STATE_DIR / "demo.env"),
    read_env_file(STATE_DIR / "secrets.env"),
)

# --- What this process is -----------------------------------------------------------------------
DEBUG = env.bool("DEBUG", default=False)
PRODUCTION = env.bool("EXCHEQUER_PRODUCTION", default=False)
SECRET_KEY = env.str("SECRET_KEY", default="")
ALLOWED_HOSTS = env.list("ALLOWED_HOSTS", default=["localhost", "127.0.0.1", "[::1]"])

# --- Secrets: see tenants/secrets.py. "id:base64" pairs, newest first ---------------------------
KEY_PEPPERS = env.list("EXCHEQUER_KEY_PEPPERS", default=[])
ENCRYPTION_KEYS = env.list("EXCHEQUER_ENCRYPTION_KEYS", default=[])

# --- Stores ------------------------------------------------------------------------------------
# The app role cannot change facts; migrations run as the owner role (see ops' migrate command).
DATABASE_URL = env.str("DATABASE_URL", default="postgresql:///exchequer")
DATABASE_OWNER_URL = env.str("DATABASE_OWNER_URL", default=DATABASE_URL)
REDIS_URL = env.str("REDIS_URL", default="redis://127.0.0.1:6379/0")
DATABASES = {"default": django_database(DATABASE_URL), "owner": django_database(DATABASE_OWNER_URL)}
_VALKEY = {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": REDIS_URL}
CACHES = {
    "default": _VALKEY,
    # Kept answers, which the gateway writes by itself under the same names (governance/response_cache).
    "responses": _VALKEY
    | {
        "KEY_PREFIX": "exchequer:response",
        "OPTIONS": {"SERIALIZER": "governance.response_cache.serializer.SealedBytes"},
    },
}

# --- Upstream: operator settings only; nothing a tenant sends or stores can change where we call --
ANTHROPIC_BASE_URL = env.str("ANTHROPIC_BASE_URL", default="https://api.anthropic.com").rstrip("/")
ANTHROPIC_API_KEY = env.str("ANTHROPIC_API_KEY", default="")

# --- Gateway -----------------------------------------------------------------------------------
GATEWAY_PUBLIC_URL = env.str("EXCHEQUER_URL", default="http://127.0.0.1:8000").rstrip("/")
ERROR_PAGES_URL = env.str("EXCHEQUER_ERROR_PAGES_URL", default=f"{GATEWAY_PUBLIC_URL}/docs/errors").rstrip(
    "/"
)
GATEWAY_BODY_BYTES_MAX = env.int("EXCHEQUER_BODY_BYTES_MAX", default=32 * 1024 * 1024)
GATEWAY_BODY_SECONDS_MAX = env.int("EXCHEQUER_BODY_SECONDS_MAX", default=30)
GATEWAY_BODY_BYTES_IN_FLIGHT_MAX = env.int("EXCHEQUER_BODY_BYTES_IN_FLIGHT_MAX", default=512 * 1024 * 1024)
GATEWAY_BODY_BYTES_PER_TENANT_MAX = env.int("EXCHEQUER_BODY_BYTES_PER_TENANT_MAX", default=256 * 1024 * 1024)
GATEWAY_UPSTREAM_SECONDS_MAX = env.int("EXCHEQUER_UPSTREAM_SECONDS_MAX", default=600)
GATEWAY_STREAM_IDLE_SECONDS_MAX = env.int("EXCHEQUER_STREAM_IDLE_SECONDS_MAX", default=120)
GATEWAY_SEND_SECONDS_MAX = env.int("EXCHEQUER_SEND_SECONDS_MAX", default=60)
GATEWAY_KEPT_REPLY_BYTES_MAX = env.int("EXCHEQUER_KEPT_REPLY_BYTES_MAX", default=4 * 1024 * 1024)
GATEWAY_WAITERS_MAX = env.int("EXCHEQUER_WAITERS_MAX", default=4000)
GATEWAY_WAITERS_PER_TENANT_MAX = env.int("EXCHEQUER_WAITERS_PER_TENANT_MAX", default=1000)
GATEWAY_SETTLE_BACKLOG_MAX = env.int("EXCHEQUER_SETTLE_BACKLOG_MAX", default=20_000)

# --- Mail: without a server it is printed where the console logs --------------------------------
CONSOLE_PUBLIC_URL = env.str("EXCHEQUER_CONSOLE_URL", default="http://127.0.0.1:8001").rstrip("/")
SMTP_HOST = env.str("EXCHEQUER_SMTP_HOST", default="")
SMTP_OPTIONS = {
    "host": SMTP_HOST,
    "port": env.int("EXCHEQUER_SMTP_PORT", default=587),
    "username": env.str("EXCHEQUER_SMTP_USER", default=""),
    "password": env.str("EXCHEQUER_SMTP_PASSWORD", default=""),
    "use_tls": env.bool("EXCHEQUER_SMTP_TLS", default=True),
    "timeout": 5,
}
MAILERS = {
    "default": {"BACKEND": "django.core.mail.backends.smtp.EmailBackend", "OPTIONS": SMTP_OPTIONS}
    if SMTP_HOST
    else {"BACKEND": "django.core.mail.backends.console.EmailBackend"}
}
DEFAULT_FROM_EMAIL = env.str("EXCHEQUER_MAIL_FROM", default="Exchequer <exchequer@localhost>")

# --- Desk and sweeper (governance/desk) --------------------------------------------------------
LEASE_HEARTBEAT_SECONDS = env.float("EXCHEQUER_LEASE_HEARTBEAT_SECONDS", default=5.0)
LEASE_STALE_SECONDS = env.float("EXCHEQUER_LEASE_STALE_SECONDS", default=30.0)
DESK_TRANSACTION_TIMEOUT_SECONDS = env.float("EXCHEQUER_DESK_TRANSACTION_TIMEOUT_SECONDS", default=5.0)
DESK_LOCK_TIMEOUT_SECONDS = env.float("EXCHEQUER_DESK_LOCK_TIMEOUT_SECONDS", default=2.0)

# --- Django ------------------------------------------------------------------------------------
INSTALLED_APPS = [
    "unfold",
    "django.contrib.admin.apps.SimpleAdminConfig",  # governance/urls.py loads the console's pages
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.humanize",
    "django.contrib.postgres",
    "django.contrib.staticfiles",
    "rest_framework",
    "drf_spectacular",
    "governance.audit",
    "tenants",
    "governance.ledger",
    "governance.pricing",
    "governance.calls",
    "governance.desk",
    "governance.budgets",
    "governance.limits",
    "governance.routing",
    "governance.response_cache",
    "governance.exports",
    "governance.gateway",
    "governance.console",
    "governance.ops",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.middleware.csp.ContentSecurityPolicyMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "governance.console.middleware.TenantScopeMiddleware",
]
ROOT_URLCONF = "governance.urls"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 12}},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]
TIME_ZONE = "UTC"
STATIC_URL = "static/"
WHITENOISE_USE_FINDERS = True  # served from the packages themselves; nothing to collect

SESSION_COOKIE_HTTPONLY = CSRF_COOKIE_HTTPONLY = True
SESSION_COOKIE_SAMESITE = CSRF_COOKIE_SAMESITE = "Lax"
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = SECURE_SSL_REDIRECT = PRODUCTION
SECURE_HSTS_SECONDS = 31_536_000 if PRODUCTION else 0
SECURE_HSTS_INCLUDE_SUBDOMAINS = SECURE_HSTS_PRELOAD = PRODUCTION
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https") if env.bool("TRUST_PROXY_TLS", False) else None

# Strict everywhere; the admin's pages, which need a little more, say so themselves (console/site.py).
SECURE_CSP = {
    "default-src": [CSP.NONE],
    "style-src": [CSP.SELF],
    "img-src": [CSP.SELF],
    "frame-ancestors": [CSP.NONE],
    "base-uri": [CSP.NONE],
    "form-action": [CSP.SELF],
}

# --- Console (governance/console) --------------------------------------------------------------
UNFOLD = {
    "SITE_TITLE": "Exchequer",
    "SITE_HEADER": "Exchequer",
    "SITE_SUBHEADER": "Claude spending, governed",
    "SITE_SYMBOL": "account_balance",
    "SITE_URL": None,
    "SHOW_VIEW_ON_SITE": False,
    "BORDER_RADIUS": "6px",
    "STYLES": ["governance.console.site.stylesheet"],
    "COLORS": {
        "primary": {
            "50": "#f0fdfa",
            "100": "#ccfbf1",
            "200": "#99f6e4",
            "300": "#5eead4",
            "400": "#2dd4bf",
            "500": "#14b8a6",
            "600": "#0d766e",
            "700": "#115e59",
            "800": "#134e4a",
            "900": "#0f3d3a",
            "950": "#042f2e",
        }
    },
    "SIDEBAR": {"navigation": "governance.console.navigation.navigation"},
}

REST_FRAMEWORK = {"DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema"}
SPECTACULAR_SETTINGS = {"TITLE": "Exchequer", "VERSION": "0.1.0", "SERVE_INCLUDE_SCHEMA": False}

CELERY_BROKER_URL = REDIS_URL.replace("unix://", "redis+socket://", 1)
CELERY_TASK_IGNORE_RESULT = True
CELERY_TASK_ACKS_LATE = True
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_BEAT_SCHEDULE = {
    "automatic pauses": {
        "task": "governance.limits.tasks.tell_of_automatic_pauses",
        "schedule": 30.0,
        "options": {"expires": 30},
    },
}
