"""A voice app's backend on Starlette: POST /api/token gives its page what a call and its trace need.

Run it with `GEMINI_API_KEY=… uvicorn app:app`, or with OPENAI_API_KEY; it needs starlette, uvicorn and httpx.
"""

import os

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

RECEIVER = os.environ.get("OTEL_VOICE_URL", "http://127.0.0.1:8770")
GEMINI = os.environ.get("GEMINI_BASE_URL", "https://generativelanguage.googleapis.com")
OPENAI = os.environ.get("OPENAI_BASE_URL", "https://api.openai.com/v1")


def user_of(request: Request) -> str | None:
    """Your app's own check of who asks, such as its session cookie; here, what a proxy in front has checked."""
    return request.headers.get("x-user")


async def token(request: Request) -> JSONResponse:
    user = user_of(request)
    if user is None:
        return JSONResponse({"error": "log in first"}, 401)
    async with httpx.AsyncClient(timeout=10) as http:
        provider = await gemini(http) if os.environ.get("GEMINI_API_KEY") else await openai(http)
        return JSONResponse({"trace": await traced(http, user), "provider": provider})


async def traced(http: httpx.AsyncClient, user: str) -> dict | None:
    """None while the receiver cannot be reached: a call must not fail because its trace does."""
    key = os.environ.get("OTEL_VOICE_API_KEY")
    headers = {"authorization": f"Bearer {key}"} if key else {}
    session = {"user_id": user, "agent_name": "concierge"}
    try:
        answer = await http.post(f"{RECEIVER}/v1/sessions", json=session, headers=headers, timeout=2)
        return answer.raise_for_status().json()
    except httpx.HTTPError:
        return None


async def gemini(http: httpx.AsyncClient) -> dict:
    headers = {"x-goog-api-key": os.environ["GEMINI_API_KEY"]}
    answer = await http.post(f"{GEMINI}/v1alpha/auth_tokens", json={"uses": 1}, headers=headers)
    return {"name": "gemini-live", "token": answer.raise_for_status().json()["name"]}


async def openai(http: httpx.AsyncClient) -> dict:
    headers = {"authorization": f"Bearer {os.environ['OPENAI_API_KEY']}"}
    session = {"session": {"type": "realtime", "model": "gpt-realtime"}}
    answer = await http.post(f"{OPENAI}/realtime/client_secrets", json=session, headers=headers)
    return {"name": "openai-realtime", "token": answer.raise_for_status().json()["value"]}


app = Starlette(routes=[Route("/api/token", token, methods=["POST"])])
