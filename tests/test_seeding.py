from utils.method.network import Blueprint
from utils.seeding import derive_seed


def test_seeds_are_fixed_numbers():
    """A change of this number changes every result ever made."""
    assert derive_seed(1, "level_03", 7, "alpha") == 1176506211663841885
    assert derive_seed(1, "level_03", 7, "alpha") != derive_seed(1, "level_03", 8, "alpha")
    assert derive_seed(1, "final") != derive_seed(2, "final")


def test_the_initialization_is_decided_by_its_seed():
    blueprint = Blueprint("resnet20", "digits", 10, 1)
    first, second, other = blueprint.initialize(1), blueprint.initialize(1), blueprint.initialize(2)
    assert all((first[name] == second[name]).all() for name in first)
    assert not (first["conv1.weight"] == other["conv1.weight"]).any()
