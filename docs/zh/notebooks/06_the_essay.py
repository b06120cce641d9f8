# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # 一小时读完这篇文章
#
# 《Transformer 注意力机制的本质》用八节讲注意力是怎么工作的。文章写得好；而好文章里，总有几句话只是听起来对。花一个小时，把每个论断放到一个眨眼就能跑完的小模型上量一量。在真正的语言模型上，这些论断也都测过：[见逐句对照](../../../experiments/pages/essay.zh.md)。
#
# 在 Colab 里先运行下面这一行；已经装好了就跳过。

# %% tags=["skip-execution"]
# %pip install -q induction-lab

# %%
import matplotlib.pyplot as plt
import torch

from induction_lab import load_model, repeated_tokens, score_heads

model = load_model()
prompts = repeated_tokens(model, n_prompts=16, period=25)
scores = score_heads(model, prompts)
(head, _), *_ = scores.top("prefix_matching", 1)
print("会复制的一个头：", head)

# %% [markdown]
# ## §1 软寻址
#
# > 注意力计算 Q 和 K 的相似度，得出权重，再对 V 加权求和。
#
# 取出这个头的查询、键和值，照这句话算一遍，再和它真正的输出比一比。

# %%
from induction_lab import capture

acts = capture(model, prompts, ["rot_q", "rot_k", "v", "z", "pattern"], heads=head)
q, k, v, z = (acts[name][:, :, 0] for name in ("rot_q", "rot_k", "v", "z"))
future = torch.ones(q.shape[1], q.shape[1]).triu(1).bool()
weights = (q @ k.mT / model.d_head**0.5).masked_fill(future, -torch.inf).softmax(-1)
print("softmax(QKᵀ/√d) V 与这个头自己的输出，最大差：", float((weights @ v - z).abs().max()))

# %% [markdown]
# > 很相似：权重接近 1；不相关：接近 0。
#
# 在第二份副本里，每个查询恰好有一个匹配的键。下图把匹配的键和其余的键所得的权重分开来画。

# %%
queries = torch.arange(prompts.period + 1, q.shape[1])
is_match = torch.zeros_like(future)
is_match[queries, queries - prompts.period + 1] = True
match, others = weights[:, is_match].flatten(), weights[:, queries][:, ~(is_match | future)[queries]].flatten()
plt.hist([match, others], bins=20, density=True, label=["the matching key", "the others"])
plt.xlabel("weight")
plt.legend()
plt.show()

# %% [markdown]
# > “软”：是加权求和，而不是只读一个地址。
#
# 每个头究竟从几个地方读（`addresses`，有效地址数）？又非软不可吗？把 softmax 一直削尖，直到只剩最好的那个键：先削这一个头，再削所有的头。

# %%
from induction_lab import attention_spread

spread = attention_spread(model, prompts)
spread[spread["quantity"] == "addresses"][["label", "value", "uniform"]].round(1)

# %%
from induction_lab import temper

every = [(layer, one) for layer in range(model.n_layers) for one in range(model.n_heads)]
print(f"原样：第二份副本上的损失 {scores.loss_by_copy[1]:.3f}")
for name, heads in ((str(head), [head]), ("所有头", every)):
    with temper(model, heads, 100.0):
        hard = score_heads(model, prompts, scores=["prefix_matching"])
    print(f"{name} 改为硬寻址：第二份副本上的损失 {hard.loss_by_copy[1]:.3f}")

# %% [markdown]
# 代价有多大？已经找到匹配的头，只读一个地址也能干活。这个小模型里，所有头几乎都可以；语言模型里就不行了，[见逐句对照](../../../experiments/pages/essay.zh.md)。
#
# ## §2 上下文融合
#
# > 无论两个词相隔多远，路径长度永远是 O(1)。
#
# 在两份副本之间塞进越来越多的其他词元。如果距离真的无关紧要，两条线就该一直是平的。

# %%
gaps = [0, 10, 20, 40, 60, 76]
apart = [score_heads(model, repeated_tokens(model, n_prompts=8, period=25, gap=gap)) for gap in gaps]
plt.plot(gaps, [float(each["prefix_matching"][head]) for each in apart], "o-", label="attention to the match")
plt.plot(gaps, [each.loss_by_copy[1] for each in apart], "s-", label="loss on the second copy, nats")
plt.xlabel("tokens between the copies")
plt.ylim(0)
plt.legend()
plt.show()

# %% [markdown]
# > 处理 "it" 时，注意力发现 "animal" 相关度最高，因为 *tired* 通常形容动物。
#
# 可是 *tired* 在 *it* **后面**。从左往右读的模型，这时还不可能知道它。拿两条只有最后一个词元不同的提示：在那之前，向量相差多少？

# %%
pair = prompts.tokens[:1, :20].repeat(2, 1)
pair[1, -1] = (pair[1, -1] + 1) % model.d_vocab
streams = capture(model, pair, "resid_post", layers=1)["resid_post"]
difference = (streams[0] - streams[1]).norm(dim=-1)
print("最后一个词元之前：", float(difference[:-1].max()), " 最后一个词元处：", round(float(difference[-1]), 2))

# %% [markdown]
# 一点不差，恰好是零。无论模型在 "it" 处做了什么，都与 *tired* 这个词无关。（读到 *tired* **之后**，就另当别论了。）
#
# ## §3 几何视角
#
# > 上下文把同一个向量拉向不同的方向。
#
# 让词元 *x* 在一段文字里后面跟着 *a*，在另一段里后面跟着 *b*，然后再次出现。它的向量在前一段里偏向 *a*、在后一段里偏向 *b* 吗？进入第一层之前，两者是同一个向量。

# %%
block = prompts.tokens[0, 1:21]
x, a, b = block[5], block[6], prompts.tokens[1, 7]
one, two = block.clone(), block.clone()
two[6] = b
texts = torch.stack([torch.cat([torch.tensor([model.bos_token_id]), each, each[:6]]) for each in (one, two)])
texts[:, -1].tolist(), int(x)

# %%
acts = capture(model, texts, ["resid_pre", "resid_post"])
levels = {"embedding": ("resid_pre", 0), "layer 0": ("resid_post", 0), "layer 1": ("resid_post", 1)}
to_a, to_b = model.unembedding[a], model.unembedding[b]
for name, key in levels.items():
    leans = [float(torch.cosine_similarity(acts[key][row, -1], to_a - to_b, dim=0)) for row in (0, 1)]
    print(f"{name:10} 偏向 a 而不是 b 的程度：上文是 a 时 {leans[0]:+.2f}，上文是 b 时 {leans[1]:+.2f}")

# %% [markdown]
# > 每一个注意力头都在不同的子空间里执行这种“拉扯”。
#
# 是哪些头拉的？看看每个头沿这个方向写下了多少：

# %%
acts = capture(model, texts, "result")
pull = torch.stack([(acts["result", layer][:, -1] @ (to_a - to_b)) for layer in range(model.n_layers)])
pulled = (pull[:, 0] - pull[:, 1]).detach()

# %%
from induction_lab import plot_head_scores

ax = plot_head_scores(pulled, "pull towards a with a, less with b")

# %% [markdown]
# 并不是每个头都在拉：有一整层几乎没有动手，它做的是准备工作。
#
# ## §4 从“词法”到“逻辑”
#
# > 浅层块关注语法与形态，深层块关注任务与逻辑。
#
# 小模型只有两层，也不懂意思，所以这话有一半在这里问不了。另一半可以问：哪一类头在哪一层？又是到了哪一层，才知道下一个词元是什么？

# %%
from induction_lab import classify_heads, plot_head_kinds

ax = plot_head_kinds(classify_heads(model, kinds=["induction", "previous-token", "duplicate-token"]))

# %%
from induction_lab import logit_lens, plot_logit_lens

ax = plot_logit_lens(logit_lens(model, prompts))

# %% [markdown]
# 下面一层管形式（谁挨着谁），上面一层拿来用。但“浅层是语法、深层是反讽”这架梯子要长得多；在 SmolLM2 上，它的大部分**并不成立**：[看结果](../../../experiments/pages/essay.zh.md)。
#
# ## §5 残差流
#
# > 第 N 层的输入，包含了之前所有层处理结果的总和。
#
# 那就加起来看看。

# %%
acts = capture(model, prompts, ["embed", "attn_out", "resid_pre", "resid_post"])
summed = acts["embed"] + acts["attn_out", 0]
print("进入第 1 层，最大差：", float((summed - acts["resid_pre", 1]).abs().max()))
summed = summed + acts["attn_out", 1]
print("离开第 1 层，最大差：", float((summed - acts["resid_post", 1]).abs().max()))

# %% [markdown]
# > Query、Key、Value 都来自残差流，并且高度抽象。
#
# 它们是谁写下的东西组成的？各个写入者在这个头的键、查询和值里各占多少：

# %%
import pandas as pd

from induction_lab import input_shares

shares = {part: input_shares(model, prompts, head, part).set_index("sender")["share"] for part in "kqv"}
pd.DataFrame(shares).round(2)

# %% [markdown]
# 三者来自同一条残差流，读出来的却是不同的东西。词元本身（`embed`）在查询和值里有一份，在键里没有。其他写入者又是谁？看看它们各自看向哪里：

# %%
lower = [f"L0H{number}" for number in range(model.n_heads)]
pd.DataFrame({each: scores.of(each) for each in lower}).loc[["current_token", "previous_token"]].round(2)

# %% [markdown]
# 看着自己这个词元的头，写进了查询和值；而键是由往回看的头写成的。“高度抽象”吗？在这里，离词元本身只有一步之遥：**我前面是谁**。
#
# ## §6 归纳头
#
# > 刚才 "Harry" 后面是 "Potter"；再遇到 "Harry"，归纳头就去找它，并直接辅助预测下一个词。
#
# 给单词编上号，小模型就能读了。它可从来没听说过霍格沃茨。

# %%
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

story = "the train left and young Harry Potter saw an owl . when it came back the bird looked for young Harry"
numbered = {"<bos>": 0} | {word: i for i, word in enumerate(dict.fromkeys(story.split()), start=1)}
words = Tokenizer(models.WordLevel(numbered))
words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()

# %%
from induction_lab import HookedModel, compare_predictions, plot_pattern

reader = HookedModel(model.network, PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<bos>"), name="reader")
ax = plot_pattern(reader, story, head)

# %%
compare_predictions(reader, story, scores.above("prefix_matching"), k=3).round(3)

# %% [markdown]
# 图中最后一行就是第二个 *Harry*；表里是接下来会出现什么，有归纳头时如何，没有时又如何。这里并没有谁需要先“分析出这是一个哈利波特的文本”。
#
# 光凭这个名字够不够？同一个故事，去掉 *young*：

# %%
compare_predictions(reader, story.replace("young ", ""), scores.above("prefix_matching"), k=3).round(3)

# %% [markdown]
# 可见查找的不只是这一个词，而是**这个词连同它前面的词**：这些头匹配的，比教科书上说的多一点。（往故事里再放一个 *Harry Potter* 试试。）
#
# ## §7 一句话总结
#
# > 一种可微分的、基于内容的路由机制。
#
# **可微分**：那么梯度就应该能预言，把某个头从路线上拿掉会怎样。能吗？

# %%
from induction_lab import ablation_sweep, attribution_patching

real = ablation_sweep(model, prompts, metric="copy_logit")
foretold = attribution_patching(model, prompts, metric="copy_logit")
both = pd.DataFrame({"去掉这个头": real.table.set_index("label")["effect"]})
both["梯度的预言"] = foretold.table.set_index("label")["effect"]
print(f"各头之间的相关系数：{real.correlation(foretold):.2f}")
both.round(2)

# %% [markdown]
# 可微分，没错；但梯度只知道下一小步，而拿掉一个头是一大步。两者在哪里一致，在哪里不一致？单凭梯度，可不能说证明了一个回路。
#
# **基于内容**：换一批词元，路线就该跟着词元走，而不是跟着位置走。这一点，从第一格开始，`prefix_matching` 在随机词元上远高于随机水平，就已经说明了；反过来，提示里若没有任何东西重复出现，这些头就该无路可走。

# %%
from induction_lab import distinct_tokens

nothing = distinct_tokens(model, n_prompts=16, length=2 * prompts.period)
for name, read in (("有重复", prompts), ("没有重复", nothing)):
    rests = capture(model, read, "pattern", heads=head)["pattern"][:, 0, prompts.period + 1 :, 0].mean()
    print(f"{name}：这个头的注意力有 {float(rests):.2f} 停在第一个词元上")

# %% [markdown]
# ## §8 参考资料
#
# 接着读什么，接着量什么：
#
# - Vaswani et al. (2017)，[Attention Is All You Need](https://arxiv.org/abs/1706.03762)：§1 的公式。
# - Elhage et al. (2021)，[A Mathematical Framework for Transformer Circuits](https://transformer-circuits.pub/2021/framework/index.html)：§5 的残差流；[从权重看回路](../../notebooks/04_circuits_from_weights.py)。
# - Olsson et al. (2022)，[In-context Learning and Induction Heads](https://arxiv.org/abs/2209.11895)：§6；[看归纳头如何形成](../../notebooks/05_watch_them_form.py)。
