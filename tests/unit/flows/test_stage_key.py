from flows.run_stage import stage_key
from ltxcore.config.recipe import Recipe


def test_the_key_is_of_parent_stage_and_parameters() -> None:
    recipe = Recipe().model_dump(mode="json")
    key = stage_key("p", "encode-latents", {"workspace": "w", "recipe": recipe})
    assert key == stage_key("p", "encode-latents", {"recipe": recipe, "workspace": "w"})
    assert key.startswith("p:encode-latents:")
    changed = {**recipe, "training": {**recipe["training"], "learning_rate": 1e-3}}
    others = {
        stage_key("q", "encode-latents", {"workspace": "w", "recipe": recipe}),
        stage_key("p", "embed-text", {"workspace": "w", "recipe": recipe}),
        stage_key("p", "encode-latents", {"workspace": "v", "recipe": recipe}),
        stage_key("p", "encode-latents", {"workspace": "w", "recipe": changed}),
    }
    assert len({key, *others}) == 5
