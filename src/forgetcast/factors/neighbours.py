"""What lies around a sample."""

from __future__ import annotations

from torch import Tensor

from forgetcast.factors.factor import factor
from forgetcast.factors.probes.centroids import Centroids
from forgetcast.factors.probes.nearest import Neighbours

__all__ = ["FACTORS"]

KNN = "Papernot & McDaniel 2018, arXiv 1803.04765, deep k-nearest neighbours"


@factor(
    family="neighbours",
    source=KNN,
    unit="share",
    high="{value:.0%} of its 5 nearest neighbours share its label, more than usual here",
    low="{value:.0%} of its 5 nearest neighbours share its label, fewer than usual here",
)
def same_label_share_5(feature_neighbours: Neighbours, *, k: int = 5) -> Tensor:
    """Share of its 5 nearest neighbours in features that have its label. Shape (n,), in [0, 1]."""
    return feature_neighbours.same[:, :k].double().mean(1)


@factor(
    family="neighbours",
    source=KNN,
    unit="share",
    high="{value:.0%} of its 20 nearest neighbours share its label, more than usual here",
    low="{value:.0%} of its 20 nearest neighbours share its label, fewer than usual here",
)
def same_label_share_20(feature_neighbours: Neighbours, *, k: int = 20) -> Tensor:
    """Share of its 20 nearest neighbours in features that have its label. Shape (n,), in [0, 1]."""
    return feature_neighbours.same[:, :k].double().mean(1)


@factor(
    family="neighbours",
    source=KNN,
    unit="share",
    high="{value:.0%} of its 100 nearest neighbours share its label, more than usual here",
    low="{value:.0%} of its 100 nearest neighbours share its label, fewer than usual here",
)
def same_label_share_100(feature_neighbours: Neighbours, *, k: int = 100) -> Tensor:
    """Share of its 100 nearest neighbours in features that have its label. Shape (n,), in [0, 1]."""
    return feature_neighbours.same[:, :k].double().mean(1)


@factor(
    family="neighbours",
    source=KNN,
    unit="share",
    high="{value:.0%} of the 20 samples that look most like it share its label, more than usual here",
    low="{value:.0%} of the 20 samples that look most like it share its label, fewer than usual here",
)
def input_same_label_share(input_neighbours: Neighbours, *, k: int = 20) -> Tensor:
    """Share of its 20 nearest neighbours in standardised inputs that have its label. Shape (n,), in [0, 1]."""
    return input_neighbours.same[:, :k].double().mean(1)


@factor(
    family="neighbours",
    source=KNN,
    unit="share",
    high="{value:.0%} of its 20 nearest neighbours halfway through the model share its label, more than usual here",
    low="{value:.0%} of its 20 nearest neighbours halfway through the model share its label, fewer than usual here",
)
def middle_same_label_share(middle_neighbours: Neighbours, *, k: int = 20) -> Tensor:
    """Share of its 20 nearest neighbours in the middle layer that have its label. Shape (n,), in [0, 1]."""
    return middle_neighbours.same[:, :k].double().mean(1)


@factor(
    family="neighbours",
    source="ours; mean cosine similarity",
    unit="cosine",
    high="to the model it is more like its 20 nearest neighbours than usual here (similarity {value:.3f})",
    low="to the model it is less like its 20 nearest neighbours than usual here (similarity {value:.3f})",
)
def neighbour_similarity(feature_neighbours: Neighbours, *, k: int = 20) -> Tensor:
    """Mean cosine similarity to its 20 nearest neighbours in features. Shape (n,), in [-1, 1]."""
    return feature_neighbours.similarity[:, :k].double().mean(1)


@factor(
    family="neighbours",
    source="ours; mean cosine similarity",
    unit="cosine",
    high="its input is more like that of other samples than usual here (similarity {value:.3f})",
    low="its input is less like that of other samples than usual here (similarity {value:.3f})",
)
def input_neighbour_similarity(input_neighbours: Neighbours, *, k: int = 20) -> Tensor:
    """Mean cosine similarity to its 20 nearest neighbours in standardised inputs. Shape (n,), in [-1, 1]."""
    return input_neighbours.similarity[:, :k].double().mean(1)


@factor(
    family="neighbours",
    source="ours; mean cosine similarity",
    unit="cosine",
    high="halfway through the model it is more like other samples than usual here (similarity {value:.3f})",
    low="halfway through the model it is less like other samples than usual here (similarity {value:.3f})",
)
def middle_neighbour_similarity(middle_neighbours: Neighbours, *, k: int = 20) -> Tensor:
    """Mean cosine similarity to its 20 nearest neighbours in the middle layer. Shape (n,), in [-1, 1]."""
    return middle_neighbours.similarity[:, :k].double().mean(1)


@factor(
    family="neighbours",
    source="ours; cosine similarity",
    unit="cosine",
    high="a sample of its own class is closer than usual here (similarity {value:.3f})",
    low="the nearest sample of its own class is farther than usual here (similarity {value:.3f})",
)
def nearest_same_similarity(feature_neighbours: Neighbours) -> Tensor:
    """Similarity in features to the nearest sample of its class. Shape (n,), in [-1, 1]; -1 if there is none."""
    return feature_neighbours.nearest_same


@factor(
    family="neighbours",
    source="ours; cosine similarity",
    unit="cosine",
    high="a sample of another class is closer than usual here (similarity {value:.3f})",
    low="the nearest sample of another class is farther than usual here (similarity {value:.3f})",
)
def nearest_other_similarity(feature_neighbours: Neighbours) -> Tensor:
    """Similarity in features to the nearest sample of another class. Shape (n,), in [-1, 1]; -1 if there is none."""
    return feature_neighbours.nearest_other


@factor(
    family="neighbours",
    source="ours; hypothesis margin of Crammer et al. 2002, with cosine similarity",
    unit="cosine",
    high="its own class is nearer to it than any other class by more than usual here ({value:.3f})",
    low="its own class is nearer to it than other classes by less than usual here ({value:.3f})",
)
def similarity_gap(feature_neighbours: Neighbours) -> Tensor:
    """Similarity in features to the nearest of its class minus that to the nearest other. Shape (n,), in [-2, 2]."""
    return feature_neighbours.nearest_same - feature_neighbours.nearest_other


@factor(
    family="neighbours",
    source="ours; hypothesis margin of Crammer et al. 2002, with cosine similarity",
    unit="cosine",
    high="it looks more like its own class than like any other by more than usual here ({value:.3f})",
    low="it looks more like its own class than like any other by less than usual here ({value:.3f})",
)
def input_similarity_gap(input_neighbours: Neighbours) -> Tensor:
    """Similarity in inputs to the nearest of its class minus that to the nearest other. Shape (n,), in [-2, 2]."""
    return input_neighbours.nearest_same - input_neighbours.nearest_other


@factor(
    family="neighbours",
    source="ours; hypothesis margin of Crammer et al. 2002, with cosine similarity",
    unit="cosine",
    high="halfway through the model its own class is nearer than any other by more than usual here ({value:.3f})",
    low="halfway through the model its own class is nearer than any other by less than usual here ({value:.3f})",
)
def middle_similarity_gap(middle_neighbours: Neighbours) -> Tensor:
    """Similarity halfway to the nearest of its class minus that to the nearest other. Shape (n,), in [-2, 2]."""
    return middle_neighbours.nearest_same - middle_neighbours.nearest_other


@factor(
    family="neighbours",
    source="nearest class mean; leave-one-out",
    unit="spreads of the data",
    high="it lies farther from the middle of its class than usual here ({value:.2f} spreads)",
    low="it lies closer to the middle of its class than usual here ({value:.2f} spreads)",
)
def own_centroid_distance(centroids: Centroids) -> Tensor:
    """Distance in features to the mean of the other samples of its class. Shape (n,), in spreads of the data."""
    return centroids.own


@factor(
    family="neighbours",
    source="nearest class mean",
    unit="spreads of the data",
    high="it lies farther from the middle of the nearest other class than usual here ({value:.2f} spreads)",
    low="it lies closer to the middle of another class than usual here ({value:.2f} spreads)",
)
def other_centroid_distance(centroids: Centroids) -> Tensor:
    """Distance in features to the nearest mean of another class. Shape (n,), in spreads of the data."""
    return centroids.other


@factor(
    family="neighbours",
    source="ours; silhouette-like ratio",
    unit="share",
    high="compared with other classes it lies far from its own ({value:.2f}; 0.5 is halfway)",
    low="compared with other classes it lies close to its own ({value:.2f}; 0.5 is halfway)",
)
def centroid_ratio(centroids: Centroids) -> Tensor:
    """Distance to its own centroid over the sum of that and the nearest other. Shape (n,), in [0, 1]."""
    return centroids.own / (centroids.own + centroids.other).clamp(min=1e-12)


@factor(
    family="neighbours",
    source="after Breunig et al. 2000, LOF, in its simplified form",
    high="its surroundings are emptier than those of its neighbours (ratio {value:.2f})",
    low="its surroundings are at least as crowded as usual here (ratio {value:.2f})",
)
def local_outlier_ratio(feature_neighbours: Neighbours, *, k: int = 20) -> Tensor:
    """Its mean distance to its 20 nearest neighbours over theirs to their own. Shape (n,), about 1, at least 0.

    Distances are ‖u - v‖ = √(2 - 2 cosine) of unit features; 1e-6 is added above and below the line.
    """
    distance = (2 - 2 * feature_neighbours.similarity[:, :k].double()).clamp(min=0).sqrt().mean(1)
    return (distance + 1e-6) / (distance[feature_neighbours.index[:, :k]].mean(1) + 1e-6)


FACTORS = (
    same_label_share_5,
    same_label_share_20,
    same_label_share_100,
    input_same_label_share,
    middle_same_label_share,
    neighbour_similarity,
    input_neighbour_similarity,
    middle_neighbour_similarity,
    nearest_same_similarity,
    nearest_other_similarity,
    similarity_gap,
    input_similarity_gap,
    middle_similarity_gap,
    own_centroid_distance,
    other_centroid_distance,
    centroid_ratio,
    local_outlier_ratio,
)
