"""What `make up` shows when everything is ready."""

from collections.abc import Mapping

from rich.console import Console
from rich.syntax import Syntax

_SNIPPET = """\
from anthropic import Anthropic

client = Anthropic(base_url="{url}", api_key="{key}")
message = client.messages.create(
    model="claude-haiku-5-5",
    max_tokens=200,
    messages=[{{"role": "user", "content": "What does a call cost?"}}],
)
print(message.content[0].text)
"""


def show(console: Console, demo: Mapping[str, str], simulated: bool) -> None:
    """`demo`: what demo.env holds."""
    password = demo["EXCHEQUER_ADMIN_PASSWORD"] or "(yours; manage.py changepassword admin sets another)"
    rows = {
        "Claude API": demo["EXCHEQUER_URL"],
        "API key": demo["EXCHEQUER_API_KEY"],
        "Console": demo["EXCHEQUER_CONSOLE_URL"],
        "Login": f"{demo['EXCHEQUER_ADMIN_USER']}  {password}",
    }
    if simulated:
        rows["Answers from"] = "the bundled simulator; set ANTHROPIC_API_KEY for the real Claude API"
    console.print("\n[bold green]Exchequer is ready.[/bold green]\n")
    for name, value in rows.items():
        console.print(f"[dim]{name:<14}[/dim]", value, soft_wrap=True, markup=True)
    console.print()
    snippet = _SNIPPET.format(url=demo["EXCHEQUER_URL"], key=demo["EXCHEQUER_API_KEY"])
    console.print(Syntax(snippet, "python", background_color="default"), soft_wrap=True)
