"""VDA: virtual data augmentation by a masked language model and Gaussian noise (Zhou et al., EMNLP 2021)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from mtrobust.errors import UserError
from mtrobust.perturb.base import FORWARD, METHODS, Consistency, ConsistencyOptions, Cost, Passes, Term
from mtrobust.perturb.layers import LayerSpec, Site
from mtrobust.perturb.likely import LikelyWords
from mtrobust.perturb.names import DivergenceName

if TYPE_CHECKING:
    from torch import Tensor

    from mtrobust.models.masked_lm import MaskedLm
    from mtrobust.tasks.taskdef import TaskDef

SIGMA = {"log_posterior": 0.1, "eq4": 0.1, "repo": 0.05}
TOP_K = 128


class Options(ConsistencyOptions):
    """Options of `vda`."""

    mlm: str = Field(description="masked language model: folder or hub name; needs the encoder's vocabulary")
    mlm_bf16: bool = Field(
        True, description="the masked language model runs in bfloat16; false: in float32, half as fast"
    )
    layers: LayerSpec = Field(LayerSpec.parse("words"), description="words, embeddings (= 0), 3, 1-3, all, or a list")
    divergence: DivergenceName = Field("sym_kl", description="how posteriors are compared")
    mixture: Literal["log_posterior", "eq4", "repo"] = Field(
        "log_posterior", description="softmax of: log p + noise; p + noise (Eq. 4); logits / sum(logits) + noise (code)"
    )
    take: Literal["mixture", "argmax", "sample"] = Field(
        "mixture", description="the mixture of words, the likeliest word, or a word drawn from p"
    )
    top_k: int | None = Field(
        None, ge=0, description=f"words that can enter; 0: all; default: {TOP_K} for log_posterior, else all"
    )
    cache_mib: int = Field(
        0,
        ge=0,
        description="memory for the likeliest words of rows met before, which cost no language model then (about "
        "8 * top_k bytes a token); a resumed run starts without them and may differ in the last digits",
    )
    sigma: float | None = Field(
        None, ge=0, description="standard deviation of the noise; default: 0.1 (variance 1e-2), for repo 0.05"
    )
    samples: int = Field(1, ge=1, description="virtual examples k per example")
    embeddings: Literal["encoder", "mlm"] = Field("encoder", description="whose word embeddings are mixed")
    objective: Literal["divergence", "labels"] = Field(
        "divergence", description="divergence to the clean posterior, or the task loss of the virtual example (CE)"
    )
    factor: Literal["sum", "half_mean"] = Field(
        "sum", description="over classes: the sum (paper), or half the mean (released code)"
    )

    @model_validator(mode="after")
    def _in_use(self) -> Options:
        given = self.model_fields_set
        if self.mixture != "log_posterior" and self.top_k:
            raise ValueError(f"top_k: mixture: {self.mixture} is nearly uniform and needs all words (allowed: 0)")
        if self.take != "mixture" and given & {"sigma", "mixture"}:
            raise ValueError(
                f"{', '.join(sorted(given & {'sigma', 'mixture'}))}: without effect with take: {self.take}"
            )
        if self.cache_mib and (self.top_k == 0 or self.mixture != "log_posterior"):
            raise ValueError("cache_mib: keeps the likeliest words only (allowed: 0 where all words enter)")
        if self.take == "argmax" and "top_k" in given:
            raise ValueError("top_k: without effect with take: argmax")
        if self.objective == "labels" and (used := given & {"divergence", "detach_clean", "factor"}):
            raise ValueError(f"{', '.join(sorted(used))}: without effect with objective: labels")
        if self.samples > 1 and (self.take == "argmax" or (self.sigma == 0 and self.take == "mixture")):
            raise ValueError(f"samples: {self.samples}: without noise all would be the same")
        return self


@METHODS.register("vda")
class Vda(Consistency):
    """Divergence between the clean input and a virtual one, each token a mixture of words that could stand there.

    A masked language model reads the text unmasked; p_t is its distribution over the V words at position t. With eps ~
    N(0, sigma^2) per word and E the word-embedding table,

        w_t = softmax(log p_t + eps),   e_t = sum over words of w_t E
        loss = task(clean) + alpha * mean over k samples of sym_kl(f(E), f(e)).

    Defaults: alpha = 1, k = 1, sigma^2 = 1e-2, symmetric KL without 1/2 (regression: squared error), site `words`. At
    another site the displacement (virtual minus original word embedding) is added. Every real token is replaced,
    special ones too. Positions, segments and norms work on the mixture as on any embedding.

    The default mixture is not the paper's: its Eq. 4, softmax(p + eps), and the released code's
    softmax(logits / sum(logits) + eps) are nearly uniform at V = 30,522 (entropy within 0.1 % of log V), so that every
    virtual token is almost the mean of the table. `mixture: eq4` and `mixture: repo` compute them. `top_k` of
    log_posterior leaves the least likely words out; `captured_mass` says how much of p the rest holds.

    Further deviations: the paper mixes the masked language model's embeddings, the code the encoder's (`embeddings`);
    the code's divergence is half the mean over classes (`factor: half_mean`). Source: Zhou et al., Eq. 2 to 7.
    """

    name = "vda"
    summary = "each word embedding replaced by a noisy mixture of likely words"
    paper = "Zhou et al. 2021, Virtual Data Augmentation"
    Options = Options

    def __init__(self, options: Any, info: Any) -> None:
        super().__init__(options, info)
        from mtrobust.models.masked_lm import load_masked_lm

        self.lm: MaskedLm = load_masked_lm(options.mlm, info)
        self.lm_share = self.lm.work(info)
        width, faults = info.width("words"), []
        if options.embeddings == "mlm" and self.lm.word_embeddings.shape[1] != width:
            faults.append(
                f"embeddings: mlm: {options.mlm}: {self.lm.word_embeddings.shape[1]} wide, the encoder's are {width} "
                "(allowed: encoder)"
            )
        if any(info.width(site) != width for site in self.sites):
            faults.append(
                f"layers: {options.layers}: word embeddings are {width} wide, hidden states {info.hidden_size}: their "
                "displacement has no meaning there (allowed: words)"
            )
        if faults:
            raise UserError(faults)
        self.sigma = SIGMA[options.mixture] if options.sigma is None else options.sigma
        default_k = TOP_K if options.mixture == "log_posterior" else 0
        self.top_k = min(default_k if options.top_k is None else options.top_k, self.lm.vocabulary)
        self.likely = LikelyWords(self.lm, self.top_k, options.mlm_bf16, options.cache_mib << 20)

    def cost(self, layers: int) -> Cost:
        """A pass per sample, and a forward pass of the masked language model with its vocabulary (float32; bfloat16
        about halves it)."""
        return super().cost(layers) * self.options.samples + Cost(FORWARD * self.lm_share)

    @property
    def uses_unlabelled(self) -> bool:  # type: ignore[override]
        """Not where the virtual example is trained on its label."""
        return self.options.objective == "divergence"

    def refusal(self, task: TaskDef) -> str | None:
        """A mean over classes has no meaning where their number depends on the padding, or there are none."""
        if self.options.factor == "sum" or task.labels:
            return None
        return "factor: half_mean: is a mean over named classes (supported: Classification; else factor: sum)"

    def at_site(self, passes: Passes, site: Site) -> Term:
        """The mean over the samples at one site."""
        if self.options.samples == 1:
            clean, virtual = passes.fork(site, lambda hidden: self.edit(passes, site, hidden, 0))
            return self.compare(clean, virtual)
        hidden = passes.h(site)
        terms = [
            self.compare(passes, passes.at(site, self.edit(passes, site, hidden, k)))
            for k in range(self.options.samples)
        ]
        return Term(sum((term.total for term in terms[1:]), terms[0].total) / len(terms), terms[0].over)

    def compare(self, clean: Passes, virtual: Passes) -> Term:
        """The term of one virtual pass."""
        if self.options.objective == "labels":
            return clean.loss(virtual)
        term = clean.diff(self.options.divergence, clean, virtual, self.options.detach_clean)
        if self.options.factor == "half_mean":
            term.total = term.total / (2 * clean.views()[0].logits.shape[-1])
        return term

    def edit(self, passes: Passes, site: Site, hidden: Tensor, sample: int) -> Tensor:
        """The states of a site with the virtual word embeddings, [B, T, width]."""
        mask = passes.noise_mask.unsqueeze(-1).bool()
        table = passes.encoder.word_embeddings
        source = table.weight if self.options.embeddings == "encoder" else self.lm.word_embeddings
        virtual = self.virtual(passes, source, sample)
        displacement = virtual - table.weight[passes.batch.inputs["input_ids"]]
        passes.log_size("delta_norm", displacement)
        if site == "words":
            return virtual.to(hidden.dtype).where(mask, hidden)
        return hidden + displacement.where(mask, 0).to(hidden.dtype)

    def virtual(self, passes: Passes, table: Tensor, sample: int) -> Tensor:
        """The virtual word embeddings, [B, T, width]. table: [V, width]."""
        import torch

        words, weights = self.weights(passes, sample)
        if words is None:
            return weights.to(table.dtype) @ table
        rows = words.flatten(0, 1)
        mixed = torch.nn.functional.embedding_bag(
            rows, table, per_sample_weights=weights.flatten(0, 1).to(table.dtype), mode="sum"
        )
        return mixed.view(*words.shape[:2], -1)

    def weights(self, passes: Passes, sample: int) -> tuple[Tensor | None, Tensor]:
        """(numbers of the words [B, T, k] or None for all, their weights [B, T, k or V])."""
        words, scores = self.scores(passes)
        name = f"vda/{sample}"
        if self.options.take == "mixture":
            noise = self.sigma * passes.draw(name, scores) if self.sigma else 0
            return words, (scores + noise).softmax(-1)
        if self.options.take == "argmax":
            chosen = scores.argmax(-1, keepdim=True)
        else:
            share = scores.softmax(-1).cumsum(-1)
            drawn = passes.draw(name, scores[..., :1], "uniform").to(share.dtype) * share[..., -1:]
            chosen = (share <= drawn).sum(-1, keepdim=True).clamp(max=share.shape[-1] - 1)
        chosen = chosen if words is None else words.gather(-1, chosen)
        return chosen, scores.new_ones(chosen.shape)

    def scores(self, passes: Passes) -> tuple[Tensor | None, Tensor]:
        """(words or None, what the noise is added to), as `weights`; the masked language model runs once a batch."""
        key = f"vda/{id(self)}"
        if key not in passes.memo:
            if self.top_k:
                words, log_p = self.likely(passes.batch.inputs)
                mass = log_p.exp().sum(-1) * passes.noise_mask
                passes.memo[key] = words, log_p, mass.sum() / passes.noise_mask.sum()
            else:
                logits = self.lm.logits(passes.batch.inputs, self.options.mlm_bf16)
                passes.memo[key] = None, self.dense(logits), None
        words, scores, mass = passes.memo[key]
        if mass is not None:
            passes.log("captured_mass", mass)
        return words, scores

    def dense(self, logits: Tensor) -> Tensor:
        """What the noise is added to, for all words."""
        if self.options.take != "mixture" or self.options.mixture == "log_posterior":
            return logits.log_softmax(-1)
        if self.options.mixture == "eq4":
            return logits.softmax(-1)
        return logits / logits.sum(-1, keepdim=True)
