"""Export of a checkpoint as one GGUF file for llama.cpp: architecture `llama`, weights tensor by tensor, and the vocabulary.

llama.cpp rotates neighbouring coordinates of a head together, and we rotate the first and the second half, so query and key rows are
interleaved. Norms stay in float32, which llama.cpp requires. Under float16 the head stays in float32 too: its weights times the output
multiplier would underflow in float16.

Source: the format's description in github.com/ggml-org/ggml, docs/gguf.md; the names of the `gguf` package.
"""

import contextlib
import dataclasses
import pathlib
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import tensorstore

from teleflm_jax import atomic_write, invocation
from teleflm_jax.errors import UserError
from teleflm_jax.huggingface import export, names, tensors
from teleflm_jax.huggingface.gguf_vocabulary import GGUFVocabulary
from teleflm_jax.tokenizer.specials import Specials

SUFFIX = ".gguf"
_FILE_TYPES = {"float32": "ALL_F32", "float16": "MOSTLY_F16", "bfloat16": "MOSTLY_BF16"}
_ROTATED = ("q_proj", "k_proj")


@dataclasses.dataclass(frozen=True, kw_only=True)
class GGUFText:
    """Vocabulary, special ids and chat template of the file."""

    vocabulary: GGUFVocabulary
    ids: Specials
    template: str | None
    """Chat template."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class GGUFTensor:
    """A tensor of the file, and the weight that it holds."""

    entry: tensors.Entry
    row: names.Row
    layer: int


def tensors_in_order(job: export.ExportJob, named: Callable[[str], str]) -> list[GGUFTensor]:
    """Return all tensors in the order of the file; `named` translates a name of transformers' Llama."""
    size, found = names.sizes(job.model), []
    for row, layer in names.in_order(job.rows, job.model.num_layers):
        single = len(row.form) == 1 or (job.dtype == "float16" and row.ours == "head")
        dtype = "F32" if single else export.DTYPES[job.dtype]
        entry = tensors.Entry(name=named(row.name(layer)), dtype=dtype, shape=names.shape(row, size))
        found.append(GGUFTensor(entry=entry, row=row, layer=layer))
    return found


def write(
    job: export.ExportJob,
    path: pathlib.Path,
    text: GGUFText,
    watch: Callable[[Sequence[GGUFTensor]], Iterable[GGUFTensor]] = iter,
) -> None:
    """Write the file; it appears only when it is complete.

    Args:
        job: the export.
        path: destination; must not exist.
        text: vocabulary, special ids and chat template.
        watch: takes the tensors and yields them one by one, for example a progress bar.

    Raises:
        UserError: the file exists, its name does not end in .gguf, the disk is too small, a weight overflows float16, or the `gguf`
            package is not installed.
        checkpoint.Damaged: a weight is not as it was saved.
    """
    gguf = library()
    if path.suffix != SUFFIX or path.exists():
        raise UserError(
            f"got --out {path}{', which exists already' * path.exists()}; allowed: an unused name that ends in {SUFFIX}; change --out"
        )
    named = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, job.model.num_layers)

    def name_in_file(name: str) -> str:
        found = named.get_name(name, (".weight", ".bias"))
        assert found is not None  # the library's table has all names of Llama
        return found

    todo = tensors_in_order(job, name_in_file)
    export.refuse_small_disk(path, [place.entry for place in todo])
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write.remove_leftovers(path)
    with (
        atomic_write.replacing(path) as temporary,
        contextlib.closing(gguf.GGUFWriter(temporary, gguf.MODEL_ARCH_NAMES[gguf.MODEL_ARCH.LLAMA])) as writer,
    ):
        _describe(writer, job, path.stem, gguf.LlamaFileType[_FILE_TYPES[job.dtype]])
        _add_text(writer, text)
        for place in todo:
            entry, kind = place.entry, gguf.GGMLQuantizationType[place.entry.dtype]
            writer.add_tensor_info(entry.name, entry.shape, tensors.DTYPES[entry.dtype], entry.num_bytes, raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        assert writer.fout is not None  # it is open since the header
        [file] = writer.fout
        writer.write_padding(file, file.tell())
        sums, context = {}, tensorstore.Context(export.READING)
        for place in watch(todo):
            _write_tensor(file, job, place, sums, context)
            writer.write_padding(file, place.entry.num_bytes)
        export.refuse_damaged(job, {path.name: sums})


def library():
    """Return the `gguf` package; raises a `UserError` if it is not installed."""
    try:
        import gguf
    except ImportError as error:
        raise UserError(
            f"got --format gguf without the gguf package; allowed: with it; change --format, or {invocation.install('gguf')}"
        ) from error
    return gguf


def _describe(writer, job: export.ExportJob, title: str, file_type: int) -> None:
    model = job.model
    writer.add_name(title)
    writer.add_file_type(file_type)
    writer.add_vocab_size(model.vocab_size)
    writer.add_context_length(model.context_length)
    writer.add_embedding_length(model.d_model)
    writer.add_block_count(model.num_layers)
    writer.add_feed_forward_length(model.d_ff)
    writer.add_head_count(model.num_heads)
    writer.add_head_count_kv(model.num_kv_heads)
    writer.add_key_length(model.head_size)
    writer.add_value_length(model.head_size)
    writer.add_rope_dimension_count(model.head_size)
    writer.add_rope_freq_base(model.rope_theta)
    writer.add_layer_norm_rms_eps(model.norm_epsilon)


def _add_text(writer, text: GGUFText) -> None:
    vocabulary, ids = text.vocabulary, text.ids
    writer.add_tokenizer_model("gpt2")  # byte-level BPE
    writer.add_tokenizer_pre(vocabulary.pre)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.types)
    writer.add_token_merges(vocabulary.merges)
    writer.add_bos_token_id(ids.bos)
    writer.add_eos_token_id(ids.eos)
    for end, add in zip(_further_ends(ids), (writer.add_eot_token_id, writer.add_eom_token_id), strict=False):
        add(end)
    if pad := ids.named.get("tokenizer_config.pad_token"):
        writer.add_pad_token_id(pad[0])
    writer.add_add_bos_token(bool(ids.before))
    writer.add_add_eos_token(bool(ids.after))
    if text.template is not None:
        writer.add_chat_template(text.template)


def notes_of_ends(ids: Specials) -> tuple[str, ...]:
    """Return a remark on ids that end a text and that the file cannot name: the format has three keys for them."""
    unnamed = _further_ends(ids)[2:]
    return (f"llama.cpp does not end a text at the ids {', '.join(map(str, unnamed))}; a file names three ends at most",) if unnamed else ()


def refuse_wrapping(ids: Specials) -> None:
    """Raise a `UserError` if the tokenizer adds more around a text than llama.cpp can: one id before it and one after it."""
    if ids.before not in ((), (ids.bos,)) or ids.after not in ((), (ids.eos,)):
        raise UserError(
            f"got a tokenizer that adds the ids {list(ids.before)} before and {list(ids.after)} after a text; allowed for GGUF: at most "
            f"{ids.bos}, its beginning, and {ids.eos}, its end; choose another --format"
        )


def _further_ends(ids: Specials) -> list[int]:
    return [end for end in ids.ends if end != ids.eos]


def _write_tensor(file, job: export.ExportJob, place: GGUFTensor, sums: dict[str, int], context: tensorstore.Context) -> None:
    array = export.weight(job, place.row, place.layer, sums, context)
    if any(f".{name}." in place.row.theirs for name in _ROTATED):
        array = interleaved(array, job.model.head_size)
    with np.errstate(over="raise"):
        try:
            for block in tensors.blocks(array, place.entry.dtype, job.factors.get(place.row.ours or "", 1.0)):
                file.write(block.view(np.uint8).data)
        except FloatingPointError as error:
            raise UserError(
                f"got {place.row.theirs} with a weight beyond float16's range; allowed: at most 65,504; change --dtype"
            ) from error


def interleaved(array: np.ndarray, head_size: int) -> np.ndarray:
    """Return the rows of heads with the two halves of each head interleaved."""
    rest = array.shape[1:]
    return array.reshape(-1, 2, head_size // 2, *rest).swapaxes(1, 2).reshape(array.shape)
