/** One conversation: notices on top, questions and answers of the branch that is shown. */

import { DownOutlined, ReloadOutlined } from '@ant-design/icons'
import { Button } from 'antd'
import { useEffect, useRef, useState } from 'react'
import type { Message, Talk as TalkType } from './api'
import { Answer, type AnswerActions } from './Answer'
import { Notice } from './Notice'
import { Question } from './Question'
import { useStickToEnd } from './scroll'
import { running } from './talks'
import { branches, type Chosen, columns, keyOf, modelOf, notices, trail } from './tree'

export interface TalkActions extends AnswerActions {
  edit: (question: Message, text: string) => Promise<boolean>
  answer: (question: Message) => void
  choose: (choice: Chosen) => void
}

interface Props {
  talk: TalkType
  chosen: Chosen
  limit: number
  actions: TalkActions
}

export function Talk({ talk, chosen, limit, actions }: Props) {
  const shown = trail(talk.messages, chosen)
  const children = branches(talk.messages)
  const busy = running(talk.messages).length > 0
  const { box, content, atEnd, toEnd } = useStickToEnd(talk.id, running(shown)[0])

  return (
    <>
      <Notice lines={notices(shown)} />
      <div className="scroll" ref={box}>
        <div className="messages" ref={content} role="log" aria-live="off" aria-label={`对话：${talk.title}`}>
          {shown.map((message) =>
            message.role === 'user' ? (
              <Question
                key={message.id}
                question={message}
                siblings={children.get(keyOf(message.parent))!}
                busy={busy}
                onEdit={(text) => actions.edit(message, text)}
                onChoose={({ id }) => actions.choose({ [keyOf(message.parent)]: id })}
              />
            ) : (
              <Answers
                key={`answers to ${message.parent}`}
                followed={message}
                answers={children.get(keyOf(message.parent))!}
                {...{ chosen, busy, limit, actions }}
              />
            ),
          )}
          {shown.at(-1)?.role === 'user' && (
            <Button icon={<ReloadOutlined aria-hidden />} onClick={() => actions.answer(shown.at(-1)!)}>
              请回答
            </Button>
          )}
        </div>
      </div>
      {!atEnd && <Button className="to-end" shape="circle" icon={<DownOutlined aria-hidden />} aria-label="到最新的回答" onClick={toEnd} />}
      <Spoken key={talk.id} answer={shown.at(-1)} />
    </>
  )
}

interface AnswersProps extends Pick<Props, 'chosen' | 'limit' | 'actions'> {
  followed: Message
  answers: Message[]
  busy: boolean
}

/** The answers to one question: one for each model, side by side. */
function Answers({ followed, answers, chosen, busy, limit, actions }: AnswersProps) {
  const groups = columns(answers)
  const question = keyOf(followed.parent)
  return (
    <div className={groups.length > 1 ? 'side-by-side' : ''}>
      {groups.map((group) => {
        const isFollowed = group.includes(followed)
        const column = `${question}/${modelOf(group[0]!)}`
        const answer = isFollowed ? followed : (group.find(({ id }) => id === chosen[column]) ?? group.at(-1)!)
        const choose = ({ id }: Message) => actions.choose(isFollowed ? { [question]: id, [column]: id } : { [column]: id })
        const follow = () => actions.choose({ [question]: answer.id, [`${question}/${modelOf(followed)}`]: followed.id })
        return (
          <Answer
            key={answer.id}
            siblings={group}
            followed={groups.length > 1 ? isFollowed : undefined}
            onChoose={choose}
            onFollow={follow}
            {...{ answer, busy, limit, actions }}
          />
        )
      })}
    </div>
  )
}

/** Tell a screen reader when an answer begins, and the whole of it at its end, but not each piece. */
function Spoken({ answer }: { answer: Message | undefined }) {
  const heard = useRef('')
  const [words, setWords] = useState('')
  useEffect(() => {
    if (answer?.state === 'running') {
      heard.current = answer.id
      setWords('正在回答')
    } else if (answer && heard.current === answer.id) {
      heard.current = ''
      setWords(`回答完毕。${answer.content}`)
    }
  }, [answer])
  return (
    <div className="unseen" role="status">
      {words}
    </div>
  )
}
