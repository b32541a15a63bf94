"""What is left of a route where a less specific policy denies its models. Pure: calls and previews ask the
same."""

from msgspec.structs import replace

from governance.routing.facts import CallFacts
from governance.routing.route import Route
from governance.routing.router import Router


def without_denied(router: Router, route: Route, facts: CallFacts, reasons: list[str]) -> Route:
    """Without the models that a less specific policy denies: no team undoes what its tenant forbids.
    `reasons` says which."""
    if not router.denies_models:
        return route

    def allowed(model: str | None, kind: str) -> bool:
        if model is None or router.denial(facts, model, route.policies.get(kind)) is None:
            return True
        reasons.append(f"{kind}: a less specific policy denies {model}.")
        return False

    terms, ladder = route.classify, route.cascade
    if terms is not None:
        models = {label: model for label, model in terms.models.items() if allowed(model, "model")}
        otherwise = terms.otherwise if allowed(terms.otherwise, "model") else None
        terms = replace(terms, models=models, otherwise=otherwise) if allowed(terms.by, "model") else None
    if ladder is not None and not (allowed(ladder.first, "model") and allowed(ladder.then, "model")):
        ladder = None
    return replace(
        route,
        model=route.model if allowed(route.model, "model") else None,
        classify=terms,
        cascade=ladder,
        fallbacks=tuple([model for model in route.fallbacks if allowed(model, "fallbacks")]),
        on_exhausted=route.on_exhausted if allowed(route.on_exhausted, "on_exhausted") else None,
        summarise_by=route.summarise_by if allowed(route.summarise_by, "history") else None,
    )
